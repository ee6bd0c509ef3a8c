"""Likelihood: bits per dimension of real images under a score network, with and without guidance."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import model_validator

from dgflow.diffusion.correction_specs import NetworkGuidance
from dgflow.diffusion.guidance_specs import DiscriminatorGuidance, GradientTerm, Guidance
from dgflow.specs.figures import Figure, Metric
from dgflow.specs.spec import SmokeRun
from dgflow.specs.step import Spread, Work
from dgflow.steps.arm_values import over_seeds
from dgflow.steps.gain_checks import check_score
from dgflow.steps.guides import evaluations_per_point, guide_uses, guides_of
from dgflow.steps.judging.likelihood_fields import LikelihoodFields
from dgflow.steps.judging.likelihood_figures import likelihood_figures
from dgflow.steps.judging.shared_samples import seen
from dgflow.store.identity import canonical_json

if TYPE_CHECKING:
    from dgflow.specs.bound import Bound
    from dgflow.store.objects import ObjectStore

IMAGES_AT_ONCE = 64  # per piece of a worker's work
EVALUATIONS, GUIDED = 100, 350
"""Evaluations of the ODE's slope per image at tolerance 1e-5, without and with guidance, as `plan` assumes
them: 86 and 348 were measured on digits. A discriminator bends the path more than the score network does."""
TWICE = 2
"""Cost of a gradient that is differentiated again, relative to a plain gradient."""


class Likelihood(LikelihoodFields):
    """Bits per dimension of `real` under the probability-flow ODE of `score`, guided by each arm's terms.

    With x = (pixel + u - 1/2) / 127.5 - 1, u uniform in [0, 1), and x_s = x + s z, z normal, the file holds
    for every arm and noise level s, as means over the images with their standard errors:

    - `nll`: -log2 p_s(x_s) per dimension plus log2 127.5, with p_s the density of the ODE's samples at s
      (Song et al. 2021, section D.2; `dgflow.diffusion.likelihood`). It is an upper bound of the negative
      log-likelihood of the pixels under samples to which noise of level s is added again. `noised=False`
      takes -log2 p_s(x), as score_sde does.
    - `nelbo`: the bound of `nll` that needs no ODE (Kim et al. 2023, appendix A.3); it bounds the likelihood
      of the diffusion, not that of the ODE.
    - `nfe`: the evaluations of the ODE's slope per image.

    Arms after the first also have their changes from the first arm, image by image. The order of the arms is
    not part of the identity: with the arms in another order the file stays the same, and so does the arm from
    which changes are measured.

    A term acts with its `weight` at every noise level of its window: the weight of a flow is the mean of the
    two orders' weights of Heun's step. The networks receive the labels of the images. For the fields see
    `LikelihoodFields`.
    """

    quantities: ClassVar[Mapping[str, Metric]] = {
        "nll": Metric("NLL (bits/dim)", 4),
        "nelbo": Metric("NELBO (bits/dim)", 4),
    }

    @model_validator(mode="after")
    def _fits(self) -> Likelihood:
        check_score(self.score, self.real, field="score")
        if self.dequantise and self.real.step.gives_latents:
            raise ValueError(
                f"real: expected images, whose pixels have a likelihood, found the latents of "
                f"{self.real.step.title}; give images and a network of pixels, or dequantise=False for the "
                "density of the latents themselves"
            )
        if self.real.rows < 2:
            raise ValueError(
                f"real: expected at least two images, found {self.real.rows}; take a larger slice"
            )
        levels = [*([] if self.sigma_min is None else [self.sigma_min]), *self.truncations]
        ends = [*levels, *([] if self.sigma_max is None else [self.sigma_max])]
        if any(level <= 0 for level in levels) or ends != sorted(set(ends)):
            raise ValueError(
                "expected noise levels above 0 that rise from sigma_min over truncations to sigma_max, found "
                f"{', '.join(f'{level:g}' for level in ends)}"
            )
        self.check_arms()
        return self

    def check_terms(self, terms: tuple[Guidance, ...]) -> None:
        """Raises ValueError for a boost, which an ODE does not have."""
        for number, term in enumerate(terms):
            if isinstance(term, DiscriminatorGuidance) and term.boost is not None:
                raise ValueError(
                    f"guidance.{number}: expected guidance without a boost, which is defined for steps of "
                    "a sampler and not for an ODE, found one; leave it out (boost=None)"
                )

    def cautions(self) -> list[str]:
        """Returns warnings about images that a network of an arm was trained on."""
        steps = {weights.fingerprint: weights for weights in self.networks}
        found = []
        for weights in steps.values():
            if common := seen(weights, self.real):
                found.append(
                    f"{self.title}: {weights.step.title} was trained on {common:,} of the {self.real.rows:,} "
                    "real images, whose likelihood is then too high; take others"
                )
        return found

    def toy(self, smoke: SmokeRun) -> Likelihood:
        toy = super().toy(smoke)
        assert isinstance(toy, Likelihood)
        real = toy.real.step[max(toy.real.start, toy.real.stop - 2) : toy.real.stop]
        fast = {"truncations": (), "times": 2, "repeats": 1, "tolerance": 1.0}
        return toy.model_copy(update=fast | {"real": real})

    @property
    def title(self) -> str:
        return f"likelihood of {', '.join(self.arms)}"

    def network_evaluations(self, rows: int) -> int:
        return sum(round(work.times) for work in self.work(rows) if work.network is self.score.step)

    def work(self, amount: int) -> list[Work]:
        points = amount * self.real.rows * self.repeats * (1 + len(self.truncations))
        slopes = points * ("nll" in self.methods)
        if self.divergence == "exact":
            slopes *= self.real.step.shape.values
        losses = points * self.times * ("nelbo" in self.methods)
        return list(self._works(slopes, losses))

    def _works(self, slopes: int, losses: int) -> Iterator[Work]:
        for name, terms in self.arms.items():
            per_point = evaluations_per_point(terms)
            guides = guides_of(f"arms.{name}", terms)
            own = slopes * (
                GUIDED if any(isinstance(term, GradientTerm) for term in guides.values()) else EVALUATIONS
            )
            yield Work(self.score.step, "gradient", own * per_point, self.batch_size)
            yield Work(self.score.step, "forward", losses * per_point, self.batch_size)
            for term in guides.values():
                for network, use in guide_uses(term):
                    if isinstance(term, NetworkGuidance):  # differentiated once, like the score network
                        yield Work(network, "gradient", own, self.batch_size)
                        yield Work(network, use, losses, self.batch_size)
                    else:
                        yield Work(network, use, TWICE * own + losses, self.batch_size)

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """Returns the numbers as JSON; the workers share the images."""
        del store
        from dgflow.steps.judging.likelihood_values import Meter, span, summary

        ends = span(self)
        starts = range(0, self.real.rows, IMAGES_AT_ONCE)
        items = [(name, start) for name in self.arms for start in starts]
        pieces: dict[tuple[str, int], dict[str, Any]] = {}
        spread(lambda: Meter(self, inputs, ends, IMAGES_AT_ONCE), items, pieces.__setitem__)
        arms = {name: [pieces[name, start] for start in starts] for name in self.arms}
        return canonical_json(summary(self, ends, arms)).encode()

    def compared(self, content: bytes) -> Mapping[str, Mapping[str, Any]]:
        arms = self._content(content)["arms"]
        return {
            name: {
                method: over_seeds(arms[name][method][:1]) | {"errors": arms[name][f"{method}_error"][:1]}
                for method in self.methods
            }
            for name in self.arms
        }

    def figures(self, content: bytes) -> Sequence[Figure]:
        return likelihood_figures(self._content(content), self.methods)

    def _content(self, content: bytes) -> dict[str, Any]:
        """Returns the file, with the arms in the recipe's order; canonical JSON sorts them."""
        found = json.loads(content)
        return found | {"arms": {name: found["arms"][name] for name in self.arms}}

"""Regeneration: real images, noised and solved back, averaged over the noise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field, SerializeAsAny, model_validator

from dgflow.diffusion.edm_sampler_specs import Heun
from dgflow.diffusion.linear_vp import LINEAR_VP
from dgflow.diffusion.sampler_specs import SamplerSpec
from dgflow.metrics.protocols import FrontEndName
from dgflow.specs.figures import Figure
from dgflow.specs.spec import BatchSize, Grid, Precision, SmokeRun
from dgflow.specs.step import Spread, Weights, Work
from dgflow.steps.gain_checks import check_score
from dgflow.steps.gain_choices import gain_choices
from dgflow.steps.guided_arms import GuidedArms
from dgflow.steps.guides import evaluations, evaluations_per_point, guide_uses, guides_of
from dgflow.steps.judging.features import Features
from dgflow.steps.mechanism.levels import seen_in_training, two_or_more
from dgflow.steps.mechanism.regeneration_figures import regeneration_figures
from dgflow.store.identity import canonical_json

if TYPE_CHECKING:
    from dgflow.specs.bound import Bound
    from dgflow.store.objects import ObjectStore

MOST_DRAWS = 2**20


class Regeneration(GuidedArms):
    """Averages of regenerated real images, by noise level, guided and not (Kim et al. 2023, figure 7).

    Every image is noised to sigma, x = image + sigma z, and solved back to 0 by `sampler`, `draws` times with
    different noise. The average over the noise shows how the score moves the image; a wrong score moves it
    elsewhere. An average nearer to the image does not by itself prove a better score: a score whose
    distribution is too wide leaves images unchanged, while the data's own score removes what the noise hides.
    Therefore tables of arms do not show it. The file holds these means over the images, with their standard
    errors, for each arm and level:

    - `average`: the squared distance of the expected regenerated image to the image, per value. The noise of
      an average of so few draws is subtracted, so that the number does not depend on `draws`; it can be
      slightly negative.
    - `single`: the squared distance of one regenerated image, per value.
    - `features`: if `features` are given, the Euclidean distance in the judge's features between the average,
      rounded to pixels, and the image.
    - `difference`: each of these minus that of the first arm, image by image; all arms have the same noise.
      The order of the arms is not part of the identity: with the arms in another order the file stays the
      same, and so does the arm that the others are compared with.

    The first `shown` averages are in the file and on the page as images. The networks receive the labels of
    the images. No network should have been trained on the real images; a warning names those that were seen.

    Args:
        arms: guidance by name; () is the score network alone.
        sigmas: noise levels, ascending.
        grid: of the noise levels below each; see `Translate`.
        features, front_end: the judge, as in `Features`; None for none.
    """

    sigmas: tuple[float, ...] = Field(default=(0.1, 0.2, 0.5, 1.0), min_length=1)
    draws: int = Field(default=16, gt=1, le=MOST_DRAWS)
    sampler: SerializeAsAny[SamplerSpec] = Heun()
    grid: Grid = "tail"
    features: Weights | None = None
    front_end: FrontEndName | None = None
    shown: int = Field(default=4, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**63)
    precision: Precision = "float32"
    batch_size: BatchSize = 128

    @model_validator(mode="after")
    def _fits(self) -> Regeneration:
        check_score(self.score, self.real, field="score")
        if self.real.rows < 2:
            raise ValueError(
                f"real: expected at least two images, whose spread gives the errors, found {self.real.rows}; "
                "take a larger slice"
            )
        if min(self.sigmas) <= 0 or list(self.sigmas) != sorted(set(self.sigmas)):
            raise ValueError(
                "sigmas: expected rising noise levels above 0, found "
                f"{', '.join(f'{sigma:g}' for sigma in self.sigmas)}"
            )
        if self.sampler.block is not None:
            raise ValueError(
                "sampler: expected one with step sizes per sample, found "
                f"shared_block={self.sampler.block}: leave it out"
            )
        for tau in self.taus:
            self.sampler.check_start(tau)
        self._check_features()
        self.check_arms()
        return self

    def _check_features(self) -> None:
        if self.features is None:
            if self.front_end is not None:
                raise ValueError(f"expected features with front_end={self.front_end!r}, found none")
            return
        if self.real.step.gives_latents:
            raise ValueError(
                f"features: expected images for a judge, found the latents of {self.real.step.title}; leave "
                "features out"
            )
        self._judge()

    def _judge(self) -> Features | None:
        if self.features is None:
            return None
        return Features(samples=self.real, network=self.features, front_end=self.front_end)

    def cautions(self) -> list[str]:
        return seen_in_training(self.networks, real=self.real)

    def toy(self, smoke: SmokeRun) -> Regeneration:
        values = {name: smoke.value(getattr(self, name), 1) for name in type(self).model_fields}
        real = two_or_more(values["real"])
        real = real.step[real.start : min(real.stop, real.start + 3)]
        fewer = {"real": real, "draws": 2, "sigmas": self.sigmas[-2:], "shown": 1}
        return self.model_copy(update=values | fewer)

    @property
    def title(self) -> str:
        return f"regenerated images of {', '.join(self.arms)}"

    @property
    def taus(self) -> list[float]:
        """The linear-VP times of the noise levels."""
        return [LINEAR_VP.time(sigma) for sigma in self.sigmas]

    def network_evaluations(self, rows: int) -> int:
        runs = rows * self.real.rows * self.draws
        per_point = sum(evaluations_per_point(terms) for terms in self.arms.values())
        return runs * per_point * sum(self.sampler.nfe_from(tau, self.grid) for tau in self.taus)

    def work(self, amount: int) -> list[Work]:
        runs, works = amount * self.real.rows * self.draws, list[Work]()
        how: dict[str, Any] = {"batch": self.batch_size, "precision": self.precision}
        for name, terms in self.arms.items():
            guides = list(guides_of(f"arms.{name}", terms).values())
            counts = [evaluations(self.score, self.sampler, guides, (tau, self.grid)) for tau in self.taus]
            own = runs * evaluations_per_point(terms) * sum(count for count, _ in counts)
            works.append(Work(self.score.step, "forward", own, **how))
            for number, term in enumerate(guides):
                times = runs * sum(of_guides[number] for _, of_guides in counts)
                works += [Work(network, use, times, **how) for network, use in guide_uses(term)]
        if self.features is not None:
            judged = amount * self.real.rows * 2 * len(self.arms) * len(self.sigmas)  # average and image
            works.append(Work(self.features.step, "forward", judged, self.batch_size))
        return works

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """Returns the numbers and pictures as JSON; the pieces of the images are distributed over workers."""
        del store
        from dgflow.steps.mechanism.regeneration_values import Item, Piece, Regenerations

        made = Regenerations(
            name=self.name,
            score=self.score,
            arms=self.arms,
            real=self.real,
            sigmas=self.sigmas,
            draws=self.draws,
            sampler=self.sampler,
            grid=self.grid,
            judge=self._judge(),
            shown=self.shown,
            seed=self.seed,
            precision=self.precision,
            batch_size=self.batch_size,
        )
        pieces: dict[Item, Piece] = {}
        spread(
            partial(made.measurer, gain_choices(self.guides, inputs), inputs), made.items, pieces.__setitem__
        )
        return canonical_json(made.content(pieces)).encode()

    def figures(self, content: bytes) -> Sequence[Figure]:
        found = json.loads(content)
        return regeneration_figures(found | {"arms": {name: found["arms"][name] for name in self.arms}})

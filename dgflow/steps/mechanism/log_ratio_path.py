"""LogRatioPath: a discriminator's log-ratio at every noise level, of samples along their paths and of
diffused real images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from dgflow.diffusion.guidance_settings import Combine
from dgflow.diffusion.guidance_specs import DiscriminatorGuidance, OneOrSeveral
from dgflow.specs.figures import Figure
from dgflow.specs.spec import BatchSize, SmokeRun
from dgflow.specs.step import Reference, ResultStep, Slice, Spread, Weights, Work
from dgflow.steps.gain_checks import check_score
from dgflow.steps.gain_choices import by_gain
from dgflow.steps.guides import guides_of
from dgflow.steps.mechanism.levels import forward_uses, level_span, seen_in_training, two_or_more
from dgflow.steps.mechanism.path_figures import path_figures
from dgflow.steps.sampling import Sampling
from dgflow.store.identity import canonical_json

if TYPE_CHECKING:
    from dgflow.diffusion.gain_curve import GainChoice
    from dgflow.specs.bound import Bound
    from dgflow.steps.mechanism.path_values import Paths
    from dgflow.store.objects import ObjectStore

TOY_SAMPLES = 8  # per arm, in smoke runs


class LogRatioPath(ResultStep):
    """The log-ratio of `discriminator` by noise level: of diffused real images, and of the samples of `arms`
    along their paths, unguided and guided (Kim et al. 2023, figure 8).

    An arm is a slice of `Generate` or `Translate`, or of images decoded from it. Its samples are drawn again,
    bit-identical, while the discriminator observes the first evaluation of every step; the stored samples are
    not read. Any sampler and any guidance can be observed, but no selection, whose samples are not those that
    the sampler draws.

    Noise levels from `sigma_min` to `sigma_max` are divided into `levels` equal ranges of log sigma; None is
    the range that the discriminator was trained on. The file holds, for the real images and for each arm, by
    range: `sigma`, `mean` and `std` of the log-ratios of the `images` that were observed there, each at its
    point nearest to the middle of the range in log sigma. Real images are diffused to the middles. If a
    sampler takes no step in a range, the range has no value. The discriminator should not have been trained
    on the real images; a warning names those that it was trained on.
    """

    arms: dict[str, Slice]
    discriminator: OneOrSeveral
    real: Slice
    combine: Combine = "logits"
    sigma_min: float | None = Field(default=None, gt=0)
    sigma_max: float | None = Field(default=None, gt=0)
    levels: int = Field(default=16, gt=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    batch_size: BatchSize = 128

    @model_validator(mode="after")
    def _fits(self) -> LogRatioPath:
        if not self.arms:
            raise ValueError("arms: expected one or more, by name, found none")
        for field, part in {
            "real": self.real,
            **{f"arms.{name}": arm for name, arm in self.arms.items()},
        }.items():
            if part.rows < 2:
                raise ValueError(
                    f"{field}: expected two images or more, whose spread is shown, found {part.rows}; take a "
                    "larger slice"
                )
        for name, step in self.observed.items():
            check_score(step.score, self.real, field=f"arms.{name}")
        classes, known = self.observer.guides[0].step.classes, self.real.step.shape.num_classes
        if classes not in (0, known):
            raise ValueError(
                f"real: expected labels of the {classes} classes of the discriminator, found images of "
                f"{known} classes"
            )
        return self

    @cached_property
    def observer(self) -> DiscriminatorGuidance:
        """Guidance by the discriminator at all noise levels, replaced by the observer during sampling."""
        combine = "logits" if isinstance(self.discriminator, Weights) else self.combine
        return DiscriminatorGuidance(
            discriminator=self.discriminator, combine=combine, weight=1.0, tau_min=0.0, tau_max=1.0
        )

    @cached_property
    def observed(self) -> dict[str, Sampling]:
        """The sampling steps of the arms, with `observer` as the last term of their guidance, so that
        the networks and classes of the observer are checked, loaded and evaluated like those of a guide.
        Raises ValueError for samples that are not drawn, or that are selected."""
        found = {}
        for name, part in self.arms.items():
            step = part.origin.step
            if not isinstance(step, Sampling):
                raise ValueError(
                    f"arms.{name}: expected samples of Generate or Translate, or images decoded from them, "
                    f"found {part.title}, which have no path"
                )
            if step.selection is not None:
                raise ValueError(
                    f"arms.{name}: expected samples without a selection, whose paths can be computed "
                    f"again, found {part.title}; leave the arm out"
                )
            found[name] = step.model_copy(update={"guidance": (*step.guidance, self.observer)})
        return found

    def inputs(self) -> dict[str, Reference]:
        """The networks of the arms, without their samples."""
        own = {"real": self.real, **dict(self.observer.references(""))}
        arms = {
            f"arms.{name}.{path}": reference
            for name, step in self.observed.items()
            for path, reference in step.reads.items()
        }
        return own | arms

    def choices(self, inputs: Bound) -> dict[str, GainChoice]:
        """Returns Gain's choices, by the path of the term in its arm."""
        guides = {
            path: term
            for name, step in self.observed.items()
            for path, term in guides_of(f"arms.{name}.guidance", step.guidance).items()
        }
        return by_gain(guides, inputs)

    def toy(self, smoke: SmokeRun) -> LogRatioPath:
        # The slices of the arms are not read, so a smoke run does not scale them.
        steps = {name: smoke.value(part.origin.step, 1) for name, part in self.arms.items()}
        return self.model_copy(
            update={
                "arms": {name: step[:TOY_SAMPLES] for name, step in steps.items()},
                "discriminator": smoke.value(self.discriminator, 1),
                "real": two_or_more(smoke.value(self.real, 1)),
            }
        )

    @property
    def title(self) -> str:
        return f"log-ratio along the paths of {', '.join(self.arms)}"

    def cautions(self) -> list[str]:
        return seen_in_training(self.observer.guides, real=self.real)

    @cached_property
    def span(self) -> tuple[float, float]:
        """The lowest and highest noise level; needs torch."""
        score = next(iter(self.observed.values())).score
        return level_span(self.name, score, self.observer.guides, self.sigma_min, self.sigma_max)

    def network_evaluations(self, rows: int) -> int:
        arms = zip(self.arms.values(), self.observed.values(), strict=True)
        return rows * sum(step.network_evaluations(part.rows) for part, step in arms)

    def work(self, amount: int) -> list[Work]:
        works = [
            Work(network, use, amount * self.levels * self.real.rows, self.batch_size)
            for network, use in forward_uses(self.observer)
        ]
        for name, step in self.observed.items():
            rows = amount * self.arms[name].rows
            _, times = step.evaluations([self.observer])
            works += step.model_copy(update={"guidance": step.guidance[:-1]}).work(rows)
            works += [
                Work(network, use, rows * times[0], self.batch_size, step.precision)
                for network, use in forward_uses(self.observer)
            ]
        return works

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """Returns the log-ratios as JSON; the pieces of the images are distributed over workers."""
        del store
        from dgflow.steps.mechanism.path_values import Item, Values

        paths, pieces = self._paths(), dict[Item, Values]()
        spread(partial(paths.measurer, inputs), paths.items, pieces.__setitem__)
        return canonical_json(paths.content(pieces)).encode()

    def _paths(self) -> Paths:
        from dgflow.diffusion.gain import level_edges
        from dgflow.steps.mechanism.path_values import Paths

        slices = {name: part.origin for name, part in self.arms.items()}
        return Paths(
            name=self.name,
            arms={n: (step, range(slices[n].start, slices[n].stop)) for n, step in self.observed.items()},
            observer=self.observer,
            real=self.real,
            edges=level_edges(self.levels, *self.span),
            seed=self.seed,
            batch_size=self.batch_size,
        )

    def figures(self, content: bytes) -> Sequence[Figure]:
        found: dict[str, Any] = json.loads(content)
        return path_figures({"real": found["real"], **{name: found["arms"][name] for name in self.arms}})

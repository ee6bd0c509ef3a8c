"""LossesByLevel: the distribution of the losses of discriminators and of a score network over noise
levels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from dgflow.diffusion.guidance_settings import Combine
from dgflow.diffusion.guidance_specs import DiscriminatorGuidance, OneOrSeveral
from dgflow.specs.figures import Figure
from dgflow.specs.spec import ActivationPrecision, BatchSize, SmokeRun
from dgflow.specs.step import ResultStep, Slice, Spread, Weights, Work
from dgflow.steps.gain_checks import check_score
from dgflow.steps.guides import check_guides
from dgflow.steps.mechanism.levels import forward_uses, level_span, seen_in_training, two_or_more
from dgflow.steps.mechanism.loss_figures import loss_figures
from dgflow.store.identity import canonical_json

if TYPE_CHECKING:
    from dgflow.specs.bound import Bound
    from dgflow.store.objects import ObjectStore


class LossesByLevel(ResultStep):
    """Losses by noise level, and the share of their integral below each level (Kim et al. 2023, figures 11
    and 17b).

    All losses have one weighting: their integrals are over log sigma. With this weighting, score matching,
    E|noise - predicted noise|^2, is maximum-likelihood training, and a discriminator's losses are those of
    the published distribution of times. The file holds, by level and with standard errors over images:

    - `score_matching`, per pixel, on the real images;
    - for each discriminator, `bce` (cross-entropy) and `lsif` (least squares of the ratio) of its logit, on
      `real` and on `fake` images; `loss` is the mean of the two, as in training
      (`dgflow.diffusion.losses.discriminator_loss`).

    `share` is the part of a loss's integral between the lowest level and the upper end of each. Every image
    is measured once in each of `levels` equal ranges of log sigma between `sigma_min` and `sigma_max`; None
    is the range that all discriminators were trained on. Both are narrowed to the range of the score network.
    No network should have been trained on the real and fake images; a warning names those that were seen.
    """

    score: Weights
    discriminators: dict[str, OneOrSeveral]
    real: Slice
    fake: Slice
    combine: Combine = "logits"
    sigma_min: float | None = Field(default=None, gt=0)
    sigma_max: float | None = Field(default=None, gt=0)
    levels: int = Field(default=16, gt=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    precision: ActivationPrecision = "float32"
    batch_size: BatchSize = 128

    @model_validator(mode="after")
    def _fits(self) -> LossesByLevel:
        if not self.discriminators:
            raise ValueError("discriminators: expected one or more, by name, found none")
        check_score(self.score, self.real, field="score")
        check_guides(self.score, tuple(self.terms.values()))
        for field in ("real", "fake"):
            self._check_images(field, getattr(self, field))
        return self

    def _check_images(self, field: str, part: Slice) -> None:
        if part.rows < 2:
            raise ValueError(
                f"{field}: expected two images or more, whose spread gives the errors, found {part.rows}; "
                "take a larger slice"
            )
        shape, wanted = part.step.shape, self.real.step.shape
        if shape[:2] != wanted[:2] or part.step.gives_latents != self.real.step.gives_latents:
            raise ValueError(
                f"{field}: expected samples of the form of the real ones, {wanted.channels} channels of "
                f"{wanted.image_size} pixels per side, found those of {part.title}: give samples like those "
                "that the discriminators were trained on"
            )
        for name, term in self.terms.items():
            if (classes := term.guides[0].step.classes) not in (0, shape.num_classes):
                raise ValueError(
                    f"{field}: expected labels of the {classes} classes of discriminator {name!r}, found "
                    f"samples of {shape.num_classes} classes"
                )

    def toy(self, smoke: SmokeRun) -> LossesByLevel:
        values = {name: smoke.value(getattr(self, name), 1) for name in type(self).model_fields}
        parts = {name: two_or_more(values[name]) for name in ("real", "fake")}
        return self.model_copy(update=values | parts)

    @property
    def title(self) -> str:
        return f"losses by noise level of {', '.join(self.discriminators)}"

    def cautions(self) -> list[str]:
        guides = [weights for term in self.terms.values() for weights in term.guides]
        return seen_in_training([self.score, *guides], real=self.real, fake=self.fake)

    @cached_property
    def terms(self) -> dict[str, DiscriminatorGuidance]:
        """Guidance by each of the discriminators."""
        return {
            name: DiscriminatorGuidance(
                discriminator=each, combine="logits" if isinstance(each, Weights) else self.combine
            )
            for name, each in self.discriminators.items()
        }

    @cached_property
    def span(self) -> tuple[float, float]:
        """The lowest and highest noise level; needs torch."""
        guides = [weights for term in self.terms.values() for weights in term.guides]
        return level_span(self.name, self.score, guides, self.sigma_min, self.sigma_max)

    def network_evaluations(self, rows: int) -> int:
        return rows * self.levels * (self.real.rows + self.fake.rows)

    def work(self, amount: int) -> list[Work]:
        real, both = amount * self.levels * self.real.rows, self.network_evaluations(amount)
        uses = [use for term in self.terms.values() for use in forward_uses(term)]
        return [
            Work(self.score.step, "forward", real, self.batch_size, self.precision),
            *(Work(network, use, both, self.batch_size, self.precision) for network, use in uses),
        ]

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """Returns the losses as JSON; the pieces of the images are distributed over workers."""
        del store
        from dgflow.steps.mechanism.level_losses import Item, LevelLosses, Values

        losses = LevelLosses(
            name=self.name,
            score=self.score,
            terms=self.terms,
            images={"real": self.real, "fake": self.fake},
            span=self.span,
            levels=self.levels,
            seed=self.seed,
            precision=self.precision,
            batch_size=self.batch_size,
        )
        pieces: dict[Item, Values] = {}
        spread(partial(losses.measurer, inputs), losses.items, pieces.__setitem__)
        return canonical_json(losses.content(pieces)).encode()

    def figures(self, content: bytes) -> Sequence[Figure]:
        found: dict[str, Any] = json.loads(content)
        guides = {name: found["discriminators"][name] for name in self.discriminators}
        return loss_figures(found | {"discriminators": guides})

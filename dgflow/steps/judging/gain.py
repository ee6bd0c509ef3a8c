"""Gain: how much a discriminator, or an ensemble, brings its score network nearer to given real images, by
weight and noise level, without a sample."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from dgflow.diffusion.gain_curve import MeasuredGain
from dgflow.diffusion.gain_figures import curve_figures
from dgflow.diffusion.guidance_settings import Combine
from dgflow.diffusion.guidance_specs import DiscriminatorGuidance, OneOrSeveral
from dgflow.specs.figures import Figure, Metric, Table
from dgflow.specs.spec import ActivationPrecision, BatchSize, SmokeRun
from dgflow.specs.step import ResultStep, Slice, Spread, Weights, Work
from dgflow.steps.arm_values import over_seeds
from dgflow.steps.gain_checks import check_score, measured_images
from dgflow.steps.guides import check_guides, guide_uses, loaded_term
from dgflow.steps.judging.shared_samples import check_held_out, not_trained_on
from dgflow.steps.training.discriminator_metrics import LEVELS

if TYPE_CHECKING:
    from dgflow.specs.bound import Bound
    from dgflow.steps.gain_items import GainItems
    from dgflow.store.objects import ObjectStore

IMAGES_AT_ONCE = 32  # per piece of a worker's work
Pairs = tuple[list[float], list[float]]


class Gain(ResultStep):
    """Gain (Kim et al. 2023, theorem 2) of discriminators on real images that none of them was trained on.

    The measurement is that of `TrainDiscriminator(gain_of=...)` in every epoch, for any discriminator or
    ensemble: on the first images, up to 2,048, each at one noise level from every eighth of the range of log
    sigma between `sigma_min` and `sigma_max`. `DiscriminatorGuidance(weight=gain.result())` takes the weight
    with the largest Gain.

    The file holds `gain` and `gain_error` (at weight 1, nats per image, with its standard error),
    `gain_at_best_weight`, `best_weight` and its error, and `gain_curve`, like the metrics of an epoch.
    """

    quantities: ClassVar[Mapping[str, Metric]] = {
        "gain": Metric("Gain", 4, lower_is_better=False),
        "gain_at_best_weight": Metric("Gain at the best weight", 4, lower_is_better=False),
    }

    score: Weights
    discriminator: OneOrSeveral
    real: Slice
    combine: Combine = "logits"
    sigma_min: float = Field(default=0.0447, gt=0)
    sigma_max: float = Field(default=80.0, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**63)
    precision: ActivationPrecision = "float32"
    batch_size: BatchSize = 128

    @model_validator(mode="after")
    def _fits(self) -> Gain:
        check_score(self.score, self.real, field="score")
        check_guides(self.score, (self.term,))
        if self.sigma_min >= self.sigma_max:
            raise ValueError(
                f"expected sigma_min < sigma_max, found {self.sigma_min:g} and {self.sigma_max:g}"
            )
        if self.real.rows < 2:
            raise ValueError(
                f"real: expected at least two images, found {self.real.rows}; take a larger slice"
            )
        classes, known = self.term.guides[0].step.classes, self.real.step.shape.num_classes
        if classes not in (0, known):
            raise ValueError(
                f"discriminator: expected one without classes, or with the {known} of the real images, found "
                f"{classes} classes"
            )
        for weights in self.term.guides:
            check_held_out("real", weights, self.real)
        return self

    def toy(self, smoke: SmokeRun) -> Gain:
        score, term, real = (smoke.value(each, 1) for each in (self.score, self.term, self.real))
        real = not_trained_on(term.guides, real)
        return self.model_copy(
            update={"score": score, "discriminator": term.discriminator, "real": real, "batch_size": 8}
        )

    @property
    def title(self) -> str:
        return f"gain of {len(self.term.guides)} discriminators" if self._several else "gain"

    @property
    def _several(self) -> bool:
        return not isinstance(self.discriminator, Weights)

    @cached_property
    def term(self) -> DiscriminatorGuidance:
        """Guidance by the discriminators."""
        return DiscriminatorGuidance(discriminator=self.discriminator, combine=self.combine)

    @property
    def images(self) -> int:
        """The number of images that are measured."""
        return measured_images(self.real.rows, self.real.step.shape, LEVELS)

    def network_evaluations(self, rows: int) -> int:
        return rows * self.images * LEVELS

    def work(self, amount: int) -> list[Work]:
        items = self.network_evaluations(amount)
        uses = [(self.score.step, "forward"), *guide_uses(self.term)]
        return [Work(network, use, items, self.batch_size, self.precision) for network, use in uses]

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        pieces: dict[int, Pairs] = {}
        starts = range(0, self.images, IMAGES_AT_ONCE)
        spread(lambda: self._measurer(inputs), list(starts), pieces.__setitem__)
        import torch

        columns = zip(*(pieces[start] for start in starts), strict=True)
        agreement, energy = (torch.tensor([v for part in each for v in part]).double() for each in columns)
        measured = self._items(inputs).gain({"agreement": agreement, "energy": energy})
        best = measured.total.best_weight
        content = measured.metrics() | {"best_weight": best.mean, "best_weight_error": best.error}
        return json.dumps(content).encode()

    def compared(self, content: bytes) -> Mapping[str, Mapping[str, Any]]:
        values = json.loads(content)
        return {self.title: {name: over_seeds([values[name]]) for name in self.quantities}}

    def figures(self, content: bytes) -> Sequence[Figure]:
        values = json.loads(content)
        rows = [
            ["Gain at weight 1", f"{values['gain']:.4f} ± {values['gain_error']:.4f}"],
            ["Gain at the best weight", f"{values['gain_at_best_weight']:.4f}"],
            ["best weight", f"{values['best_weight']:.2f} ± {values['best_weight_error']:.2f}"],
        ]
        note = f"nats per image, mean ± standard error of {values['gain_curve']['images']:,} real images"
        curves = curve_figures(MeasuredGain.of(values["gain_curve"]))
        return [Table("Gain", ["", "value"], rows, note=note), *curves]

    def _measurer(self, inputs: Bound) -> Callable[[int], Pairs]:
        """Loads the networks; the returned function measures the images of one piece, by the number of its
        first image."""
        import torch

        from dgflow.diffusion.acceleration import device, prepared
        from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
        from dgflow.specs.bound import SharedNetworks

        networks, items = SharedNetworks(inputs.items), self._items(inputs)
        term = loaded_term(
            "discriminator", self.term, lambda name: prepared(networks.network(name), device=device())
        )

        assert isinstance(term, DiscriminatorTerm)
        log_ratio = term.discriminator

        def measure(start: int) -> Pairs:
            numbers = torch.arange(start, min(start + IMAGES_AT_ONCE, self.images))
            own = numbers[:, None] * LEVELS + torch.arange(LEVELS)
            values = items.measure(log_ratio, own.flatten())
            return values["agreement"].tolist(), values["energy"].tolist()

        return measure

    def _items(self, inputs: Bound) -> GainItems:
        from dgflow.diffusion.acceleration import device
        from dgflow.networks.roles import GuideSpec
        from dgflow.steps.frozen_score import FrozenScore
        from dgflow.steps.gain_items import GainItems
        from dgflow.steps.image_rows import image_rows

        spec = self.term.guides[0].step.architecture
        assert isinstance(spec, GuideSpec)
        return GainItems(
            rows=image_rows(inputs, "real", seed=self.seed, source=self.real.title),
            images=self.images,
            score=FrozenScore(
                self.score,
                load=lambda: inputs.network("score"),
                conditional=self.term.guides[0].step.classes > 0,
                precision=self.precision,
                device=device(),
                name=self.name,
            ),
            seed=self.seed,
            levels=LEVELS,
            sigma_range=(self.sigma_min, self.sigma_max),
            time_map=spec.time_map(),
            batch_size=self.batch_size,
            keeps=False,
        )

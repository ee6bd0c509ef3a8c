"""The base of the steps that run a sampler on a score network, guided or not: `Generate`, which begins with
noise, and `Translate`, which begins with images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from pydantic import Field, SerializeAsAny, model_validator

from dgflow.diffusion.gain_curve import GainChoice
from dgflow.diffusion.guidance_specs import Guidance, GuideTerm
from dgflow.diffusion.sampler_specs import Heun, SamplerSpec
from dgflow.networks.families import of_latents
from dgflow.specs.network import DataShape
from dgflow.specs.spec import BatchSize, Precision, Seeding
from dgflow.specs.step import INDEX_AND_LABEL, LOG_RATIO, SampleStep, Slice, Weights, Work
from dgflow.steps.gain_choices import by_gain, check_gain, gain_choices
from dgflow.steps.guides import (
    check_guides,
    classes_asked,
    guide_evaluations,
    guide_uses,
    guides_of,
    guides_title,
    times_asked,
)
from dgflow.steps.pixels import SATURATED, counted, pixels, saturated

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dgflow.diffusion.batches import Batches
    from dgflow.diffusion.samplers import Noise, Start
    from dgflow.specs.bound import Bound
    from dgflow.steps.systems import System
    from dgflow.store.shards import Columns


class _Loaded(NamedTuple):
    """The networks and settings that a worker keeps from shard to shard."""

    system: System
    device: torch.device
    batches: Batches


class Draw(NamedTuple):
    """What some samples are made from.

    Args:
        latents: unit normals [B, C, H, W].
        labels: of the samples, int64 [B]; -1 without a class.
        asked: the classes that the networks are asked about, None for none.
        noise: unit normals by the number of the step.
        start: the images from which the sampler goes on, if any.
    """

    latents: Tensor
    labels: Tensor
    asked: Tensor | None
    noise: Noise
    start: Start | None = None


class Sampling(SampleStep):
    """Samples by index from a score network: the draws of sample i depend on (`seed`, i) alone, whatever the
    shard, worker or cluster.

    Columns: `index`, `label` (class, -1 without one), `image` (uint8 [H, W, C]) or, for a network of latents,
    `latent` (float16 [C, H, W], from the sampler), and with a discriminator `log_ratio` (its logit at the
    last guided step, float32).

    `precision` is that of the networks' weights and activations, "tf32" that of CUDA's products alone; the
    sampler's state is float64. `compile` runs torch.compile on the score network: minutes of start-up per
    worker, worthwhile for long runs, and rounding that depends on the machine.
    """

    score: Weights
    sampler: SerializeAsAny[SamplerSpec] = Heun()
    guidance: tuple[Guidance, ...] = ()
    seed: int = Field(default=0, ge=0, lt=2**63)
    precision: Precision = "float32"
    compile: bool = False
    batch_size: BatchSize = 256

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        block = self.sampler.block
        if block is not None and self.shard_size % block:
            raise ValueError(
                f"expected a shard_size that is a multiple of the sampler's shared_block {block}, found "
                f"{self.shard_size}"
            )
        check_guides(self.score, self.guidance)
        check_gain(self.score, self.guidance)
        return self

    @property
    def guides(self) -> dict[str, GuideTerm]:
        """The terms that have networks, by the path of the field that names them."""
        return guides_of("guidance", self.guidance)

    @property
    def classes(self) -> int:
        """The number of classes that the networks are asked about, 0 for none."""
        return classes_asked(self.score, self.guidance)

    @property
    def guided_by(self) -> str:
        """The end of its title."""
        titles = " and ".join(map(guides_title, self.guidance))
        return f"{', guided by ' * bool(self.guidance)}{titles}"

    @property
    def seeds(self) -> tuple[int, Seeding]:
        return self.seed, "counter"

    @property
    def shape(self) -> DataShape:
        return self.score.step.shape

    @property
    def sides(self) -> tuple[int, int, int]:
        """(channels, height, width) of a sample."""
        return self.shape.channels, self.shape.image_size, self.shape.image_size

    @property
    def gives_latents(self) -> bool:
        return of_latents(self.score)

    @property
    def gives_log_ratio(self) -> bool:
        return any(term.role == "discriminator" for term in self.guides.values())

    @property
    def row_bytes(self) -> int:
        values = self.shape.values * (2 if self.gives_latents else 1)
        return INDEX_AND_LABEL + values + LOG_RATIO * self.gives_log_ratio

    def network_evaluations(self, rows: int) -> int:
        # Of the score network; the guides' come on top.
        return rows * self.sampler.nfe * times_asked(self.guidance)

    def evaluations(self, guides: Sequence[GuideTerm]) -> tuple[float, list[float]]:
        """Evaluations of the score network and of every guide per sample, as far as they can be counted."""
        return self.sampler.nfe, guide_evaluations(self.score, self.sampler, guides) if guides else []

    def work(self, amount: int) -> list[Work]:
        score, guides = self.score, list(self.guides.values())
        own, times = self.evaluations(guides)
        batch, precision = self.batch_size, self.precision
        return [
            Work(score.step, "forward", amount * own * times_asked(self.guidance), batch, precision),
            *(
                Work(network, use, amount * each, batch, precision)
                for term, each in zip(guides, times, strict=True)
                for network, use in guide_uses(term)
            ),
        ]

    def choices(self, inputs: Bound) -> dict[str, GainChoice]:
        """Of Gain, by the path of the term: `guidance.0.by_gain`."""
        return by_gain(self.guides, inputs)

    def remarks(self, inputs: Bound) -> tuple[str, ...]:
        return tuple(f"{name}: {choice}" for name, choice in self.choices(inputs).items())

    def doubts(self, part: Slice, inputs: Bound) -> tuple[str, ...]:
        return tuple(choice.warning for choice in self.choices(inputs).values() if choice.warning)

    def shard_builder(self, inputs: Bound) -> Callable[[int, int], Columns]:
        """Load the networks; the function returned makes the samples [start, stop)."""
        from dgflow.diffusion.acceleration import device
        from dgflow.diffusion.batches import Batches
        from dgflow.steps.systems import Networks

        networks = Networks(inputs, device(), self.precision)
        choices = gain_choices(self.guides, inputs)
        system = networks.system(self.score, self.guidance, "guidance", choices, compile=self.compile)
        block = self.sampler.block
        batches = Batches(block or self.batch_size, of=self.name, fixed=block is not None)
        loaded = _Loaded(system, networks.device, batches)
        return lambda start, stop: self._rows(loaded, self.draws(inputs, start, stop), start, stop)

    @abstractmethod
    def draws(self, inputs: Bound, start: int, stop: int) -> Callable[[Tensor], Draw]:
        """Read what the samples [start, stop) are made from; the function returned gives that of some of
        them, int64 [B], on their device."""

    def _rows(self, loaded: _Loaded, draws: Callable[[Tensor], Draw], start: int, stop: int) -> Columns:
        from dgflow.diffusion.acceleration import products

        with products(self.precision):
            parts = loaded.batches.map(partial(self._batch, loaded, draws), start, stop)
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return counted(columns, columns.pop(SATURATED, None))

    def _batch(self, loaded: _Loaded, draws: Callable[[Tensor], Draw], start: int, stop: int) -> Columns:
        import torch

        index_B = torch.arange(start, stop, device=loaded.device)
        draw = draws(index_B)
        begin = {} if draw.start is None else {"start": draw.start}
        sample = self.sampler.sample(
            loaded.system.score, draw.latents, draw.asked, loaded.system.terms, draw.noise, **begin
        )
        finite_B = sample.x.isfinite().flatten(1).all(dim=1)
        if not finite_B.all():
            bad = int(index_B[~finite_B][0])
            raise FloatingPointError(
                f"expected finite pixels, found NaN or infinity in sample {bad} of {self.name} (and "
                f"{int((~finite_B).sum()) - 1} more of its batch); the score network or the discriminator "
                "gives them: look at its training curves, take an earlier epoch or a smaller guidance weight"
            )
        columns = {"index": index_B.cpu().numpy(), "label": draw.labels.cpu().numpy()}
        if self.gives_latents:
            columns["latent"] = sample.x.to(torch.float16).cpu().numpy()
        else:
            columns["image"] = pixels(sample.x)
            columns[SATURATED] = saturated(sample.x)
        if sample.log_ratio is not None:
            columns["log_ratio"] = sample.log_ratio.float().cpu().numpy()
        return columns

    def normals(self, index_B: Tensor) -> tuple[Tensor, Noise]:
        """Latents, and the noise of a step, of samples `index_B`."""
        from dgflow.diffusion import noise

        seed, sides = self.seed, self.sides
        latents = noise.standard_normal(seed, index_B, sides, step=0, draw=noise.LATENT)
        return latents, lambda step: noise.standard_normal(seed, index_B, sides, step=step, draw=noise.CHURN)

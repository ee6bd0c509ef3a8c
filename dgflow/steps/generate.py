"""Generate: samples of a score network, guided or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import Field, SerializeAsAny, model_validator

from dgflow.diffusion.gain_curve import GainChoice
from dgflow.diffusion.guidance_specs import ClassifierFree, Guidance, GuideTerm
from dgflow.diffusion.sampler_specs import Heun, SamplerSpec
from dgflow.networks.families import score_network
from dgflow.specs.bound import SharedNetworks
from dgflow.specs.network import DataShape
from dgflow.specs.spec import BatchSize, Precision, Seeding
from dgflow.specs.step import INDEX_AND_LABEL, LOG_RATIO, MeasuredColumns, SampleStep, Slice, Weights, Work
from dgflow.steps.gain_choices import check_gain, gain_choices
from dgflow.steps.guides import check_guides, guide_evaluations, guide_uses, guides_title, loaded_term

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from dgflow.diffusion.batches import Batches
    from dgflow.diffusion.guidance import GuidanceTerm
    from dgflow.diffusion.samplers import Noise
    from dgflow.diffusion.score_model import ScoreModel
    from dgflow.specs.bound import Bound
    from dgflow.store.shards import Columns


SATURATED = "saturated"


class _Loaded(NamedTuple):
    """The networks and settings that a worker keeps from shard to shard."""

    score: ScoreModel
    terms: Sequence[GuidanceTerm]
    shape: tuple[int, int, int]
    classes: int  # of the labels that are drawn, 0 for none
    device: torch.device
    batches: Batches


class Generate(SampleStep):
    """Samples by index: noise and label of sample i depend on (`seed`, i) alone, whatever the shard, worker
    or cluster.

    Columns: `index`, `label` (class, -1 without one), `image` (uint8 [H, W, C]) or, for a network of latents,
    `latent` (float16 [C, H, W], from the sampler), and with a discriminator `log_ratio` (its logit at the
    last guided step, float32).

    Labels are drawn from the score network's classes, or from the guides' where only they have some.

    `seeding="edm"` draws what EDM's per-sample generators draw for the seeds `seed`, `seed` + 1, ...: 50,000
    samples of seed 0, 50,000 and 100,000 are the three published sets. `precision` is that of the networks'
    weights and activations, "tf32" that of CUDA's products alone; the sampler's state is float64. `compile`
    runs torch.compile on the score network: minutes of start-up per worker, worthwhile for long runs, and
    rounding that depends on the machine.
    """

    score: Weights
    sampler: SerializeAsAny[SamplerSpec] = Heun()
    guidance: tuple[Guidance, ...] = ()
    seed: int = Field(default=0, ge=0, lt=2**63)
    seeding: Seeding = "counter"
    precision: Precision = "float32"
    compile: bool = False
    batch_size: BatchSize = 256

    @model_validator(mode="after")
    def _makes_sense(self) -> Generate:
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
        return {
            f"guidance.{number}.{term.role}": term
            for number, term in enumerate(self.guidance)
            if not isinstance(term, ClassifierFree)
        }

    @property
    def title(self) -> str:
        titles = " and ".join(map(guides_title, self.guidance))
        return f"generate seed {self.seed}{', guided by ' * bool(self.guidance)}{titles}"

    @property
    def seeds(self) -> tuple[int, Seeding]:
        return self.seed, self.seeding

    @property
    def shape(self) -> DataShape:
        return self.score.step.shape

    @property
    def gives_latents(self) -> bool:
        return self.score.step.sees_latents or score_network(self.score).gives_latents

    @property
    def gives_log_ratio(self) -> bool:
        return any(term.role == "discriminator" for term in self.guides.values())

    @property
    def row_bytes(self) -> int:
        values = self.shape.values * (2 if self.gives_latents else 1)
        return INDEX_AND_LABEL + values + LOG_RATIO * self.gives_log_ratio

    def network_evaluations(self, rows: int) -> int:
        # Of the score network, twice where it is also asked without a class; the guides' come on top.
        return rows * self.sampler.nfe * (1 + (len(self.guides) < len(self.guidance)))

    def work(self, amount: int) -> list[Work]:
        score, guides = self.score, list(self.guides.values())
        times = guide_evaluations(score, self.sampler, guides) if guides else []
        batch, precision = self.batch_size, self.precision
        return [
            Work(score.step, "forward", self.network_evaluations(amount), batch, precision),
            *(
                Work(network, use, amount * each, batch, precision)
                for term, each in zip(guides, times, strict=True)
                for network, use in guide_uses(term)
            ),
        ]

    def choices(self, inputs: Bound) -> dict[str, GainChoice]:
        """Of Gain, by the path of the term: `guidance.0.by_gain`."""
        return {
            f"{path.rpartition('.')[0]}.by_gain": choice
            for path, choice in gain_choices(self.guides, inputs).items()
        }

    def remarks(self, inputs: Bound) -> tuple[str, ...]:
        return tuple(f"{name}: {choice}" for name, choice in self.choices(inputs).items())

    def doubts(self, part: Slice, inputs: Bound) -> tuple[str, ...]:
        return tuple(choice.warning for choice in self.choices(inputs).values() if choice.warning)

    def shard_builder(self, inputs: Bound) -> Callable[[int, int], Columns]:
        """Load the networks; the function returned makes the samples [start, stop)."""
        from dgflow.diffusion.acceleration import device, prepared
        from dgflow.diffusion.batches import Batches

        own_device, guides, networks = device(), self.guides, SharedNetworks(inputs.items)

        def loaded(name: str, compile: bool = False) -> nn.Module:
            network, precision = networks.network(name), self.precision
            return prepared(network, precision=precision, device=own_device, compile=compile)

        score = score_network(self.score).score_model(loaded("score", self.compile))
        score = replace(score, latent=self.gives_latents)
        classes = self.score.step.classes
        if classes == 0:
            score = score.without_labels()
            known = (weights.step.classes for term in guides.values() for weights in term.guides)
            classes = min(filter(None, known), default=0)
        for term in self.guidance:
            if isinstance(term, ClassifierFree):
                score = score.classifier_free(term)
        chosen = gain_choices(guides, inputs)
        terms = [loaded_term(path, term, loaded, chosen.get(path)) for path, term in guides.items()]
        side, block = self.shape.image_size, self.sampler.block
        batches = Batches(block or self.batch_size, of=self.name, fixed=block is not None)
        shape = (self.shape.channels, side, side)
        return partial(self._rows, _Loaded(score, terms, shape, classes, own_device, batches))

    def _rows(self, loaded: _Loaded, start: int, stop: int) -> Columns:
        from dgflow.diffusion.acceleration import products

        with products(self.precision):
            parts = loaded.batches.map(partial(self._batch, loaded), start, stop)
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return counted(columns, columns.pop(SATURATED, None))

    def _batch(self, loaded: _Loaded, start: int, stop: int) -> Columns:
        import torch

        index_B = torch.arange(start, stop, device=loaded.device)
        latents, class_labels, noise = self._draws(index_B, loaded.shape, loaded.classes)
        sample = self.sampler.sample(loaded.score, latents, class_labels, loaded.terms, noise)
        finite_B = sample.x.isfinite().flatten(1).all(dim=1)
        if not finite_B.all():
            bad = int(index_B[~finite_B][0])
            raise FloatingPointError(
                f"expected finite pixels, found NaN or infinity in sample {bad} of {self.name} (and "
                f"{int((~finite_B).sum()) - 1} more of its batch); the score network or the discriminator "
                "gives them: look at its training curves, take an earlier epoch or a smaller guidance weight"
            )
        columns = {
            "index": index_B.cpu().numpy(),
            "label": (torch.full_like(index_B, -1) if class_labels is None else class_labels).cpu().numpy(),
        }
        if self.gives_latents:
            columns["latent"] = sample.x.to(torch.float16).cpu().numpy()
        else:
            columns["image"] = pixels(sample.x)
            columns[SATURATED] = saturated(sample.x)
        if sample.log_ratio is not None:
            columns["log_ratio"] = sample.log_ratio.float().cpu().numpy()
        return columns

    def _draws(
        self, index_B: Tensor, shape: tuple[int, int, int], classes: int
    ) -> tuple[Tensor, Tensor | None, Noise]:
        """Latents, class labels and the noise of a step, of samples `index_B`."""
        if self.seeding == "edm":
            from dgflow.diffusion.edm_seeding import edm_draws

            latents, class_labels, added = edm_draws((index_B + self.seed).tolist(), shape, classes)
            labels = None if class_labels is None else class_labels.to(index_B.device)
            return latents.to(index_B.device), labels, lambda step: added(step).to(index_B.device)
        from dgflow.diffusion import noise

        class_labels = noise.integers(self.seed, index_B, classes, draw=noise.LABEL) if classes else None
        latents = noise.standard_normal(self.seed, index_B, shape, step=0, draw=noise.LATENT)
        return (
            latents,
            class_labels,
            lambda step: noise.standard_normal(self.seed, index_B, shape, step=step, draw=noise.CHURN),
        )


def saturated(images_BCHW: Tensor) -> np.ndarray:
    """True [B] for images that are none: more than a quarter of the values lie outside [-1.5, 1.5]."""
    return ((images_BCHW.abs() > 1.5).flatten(1).float().mean(dim=1) > 0.25).cpu().numpy()


def counted(columns: Columns, saturated_N: np.ndarray | None) -> Columns:
    """The columns, with the number of saturated images for the receipt where there are any."""
    count = 0 if saturated_N is None else int(saturated_N.sum())
    return MeasuredColumns(columns, {SATURATED: count}) if count else columns


def pixels(images_BCHW: Tensor) -> np.ndarray:
    """uint8 [B, H, W, C] of images in [-1, 1]; truncated, as EDM and DiT write theirs."""
    import torch

    return (
        (images_BCHW * 127.5 + 128)
        .clip(0, 255)
        .to(torch.uint8)
        .permute(0, 2, 3, 1)
        .contiguous()
        .cpu()
        .numpy()
    )

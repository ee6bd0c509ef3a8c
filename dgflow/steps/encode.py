"""Encode: latents of real images, with and without horizontal flip, from an autoencoder.

If the encoder gives a distribution, the distribution is stored instead of a draw; a training draws new
latents in every epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from dgflow.networks.families import autoencoder_of
from dgflow.specs.network import DataShape
from dgflow.specs.spec import PLACEMENT, ActivationPrecision, BatchSize
from dgflow.specs.step import INDEX_AND_LABEL, Reference, SampleStep, Slice, Weights, Work
from dgflow.steps.sources.import_images import ImportImages

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dgflow.specs.bound import Bound
    from dgflow.store.shards import Columns

READERS = 8
"""Threads that decode pictures for one GPU, which encodes faster than one CPU core decodes."""


class Encode(SampleStep):
    """Latents of images, for the rows of a slice, counted from 0.

    Columns: `index`, `label`, and float16 latents as score networks see them (scaled). Stable Diffusion's VAE
    gives `mean`, `std`, `mean_flipped` and `std_flipped` [C, H, W]; a latent is mean + std * normal. NVAE's
    later groups depend on the draws of the earlier ones, so NVAE gives `latent` [2 * draws, C, H, W]: `draws`
    for the image, then `draws` for the flipped image, with noise from (`seed`, index). Images are mirrored
    before encoding; mirroring a latent would give a different result.

    With `keep_pixels=False` images of an `ImportImages` are read, prepared and encoded in one pass, and the
    root holds no pixels. The latents are bit-identical, so the field is not part of identity. Other steps
    that read those images still store them.
    """

    maps: ClassVar[str] = "images"

    images: Slice
    vae: Weights
    draws: int = Field(default=1, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**63)  # seed of NVAE's draws
    precision: ActivationPrecision = "float32"  # precision of the convolutions
    batch_size: BatchSize = 32
    keep_pixels: Annotated[bool, PLACEMENT] = True

    @model_validator(mode="after")
    def _fits(self) -> Encode:
        if not self.keep_pixels and not isinstance(self.images.step, ImportImages):
            raise ValueError(
                "keep_pixels: expected False only for images of an ImportImages, whose source is read, "
                f"found {self.images.step.title}; leave keep_pixels at True"
            )
        spec = autoencoder_of(self.vae)
        shape, expected = self.images.image_shape, self.vae.step.shape
        if shape[:2] != expected[:2]:
            raise ValueError(
                f"expected images of the autoencoder's {expected.channels} channels and "
                f"{expected.image_size} pixels per side, found {shape.channels} channels and "
                f"{shape.image_size} pixels: import them at that size"
            )
        spec.latent_shape(expected.image_size)
        if not spec.draws and (self.draws, self.seed) != (1, 0):
            raise ValueError(
                f"expected draws=1 and seed=0, found {self.draws} and {self.seed}: {type(spec).__name__} "
                "stores means and standard deviations, and draws nothing"
            )
        return self

    @property
    def shape(self) -> DataShape:
        latent = autoencoder_of(self.vae).latent_shape(self.vae.step.shape.image_size)
        return DataShape(*latent, self.images.step.shape.num_classes)

    @property
    def gives_latents(self) -> bool:
        return True

    @property
    def labelled(self) -> bool:
        return self.images.step.labelled

    @property
    def row_bytes(self) -> int:
        copies = 2 * self.draws if autoencoder_of(self.vae).draws else len(self.columns)
        return INDEX_AND_LABEL + 2 * copies * self.shape.values

    @property
    def length(self) -> int:
        return self.images.rows

    @property
    def title(self) -> str:
        return f"encoded {self.images.title}"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of latents."""
        spec = autoencoder_of(self.vae)
        if spec.draws:
            return spec.latent_columns
        return *spec.latent_columns, *(f"{name}_flipped" for name in spec.latent_columns)

    def inputs(self) -> dict[str, Reference]:
        inputs = super().inputs()
        if not self.keep_pixels:
            del inputs["images"]
            inputs |= {f"images.{name}": each for name, each in self._source.inputs().items()}
        return inputs

    def as_made(self, inputs: Collection[str]) -> Self:
        return self.model_copy(update={"keep_pixels": "images" in inputs})

    @property
    def _source(self) -> ImportImages:
        """The import whose source is read."""
        assert isinstance(self.images.step, ImportImages)
        return self.images.step

    def check_source(self, inputs: Bound) -> None:
        if not self.keep_pixels:
            self._source.check_source(inputs.below("images"))

    def check_slices(self, slices: Sequence[Slice], inputs: Bound | None) -> None:
        super().check_slices(slices, inputs)
        if not self.keep_pixels:
            self._source.check_slices([self.images], inputs and inputs.below("images"))

    def remarks(self, inputs: Bound) -> tuple[str, ...]:
        return () if self.keep_pixels else self._source.remarks(inputs.below("images"))

    def doubts(self, part: Slice, inputs: Bound) -> tuple[str, ...]:
        if self.keep_pixels:
            return ()
        first = self.images.start
        images = self._source[first + part.start : first + part.stop]
        return self._source.doubts(images, inputs.below("images"))

    def network_evaluations(self, rows: int) -> int:
        return rows * 2 * self.draws

    def work(self, amount: int) -> list[Work]:
        evaluations = self.network_evaluations(amount)
        return [Work(self.vae.step, "encode", evaluations, self.batch_size, self.precision)]

    def shard_builder(self, inputs: Bound) -> Callable[[int, int], Columns]:
        """Loads the autoencoder; the returned function encodes the rows [start, stop)."""
        import torch

        from dgflow.diffusion.acceleration import device, prepared
        from dgflow.diffusion.batches import Batches

        own_device = device()
        network = prepared(inputs.network("vae"), device=own_device)
        batches = Batches(self.batch_size, of=self.name)
        read = self._images(inputs, READERS if own_device.type == "cuda" else 1)

        def rows(start: int, stop: int) -> Columns:
            columns = read(start, stop)

            def batch(first: int, last: int) -> Columns:
                index_B = torch.arange(first, last, device=own_device)
                return self._batch(network, columns["image"][first - start : last - start], index_B)

            parts = batches.map(batch, start, stop)
            latents = {name: np.concatenate([part[name] for part in parts]) for name in self.columns}
            index, label = np.arange(start, stop, dtype=np.int64), columns["label"].astype(np.int64)
            return {"index": index, "label": label, **latents}

        return rows

    def _images(self, inputs: Bound, threads: int) -> Callable[[int, int], Columns]:
        """Returns a function of rows [start, stop) that gives their labels and images."""
        if self.keep_pixels:
            return lambda start, stop: inputs.rows("images", ["label", "image"], start, stop)
        read, first = self._source.reader(inputs.below("images"), threads), self.images.start
        return lambda start, stop: read(first + start, first + stop)

    def _batch(self, network: nn.Module, images_BHWC: np.ndarray, index_B: Tensor) -> Columns:
        import torch

        from dgflow.diffusion.acceleration import autocast
        from dgflow.steps.training.rows import scaled

        images = scaled(torch.from_numpy(images_BHWC).to(index_B.device).permute(0, 3, 1, 2))
        with torch.no_grad(), autocast(index_B.device, self.precision):
            latents = zip(self.columns, self._latents(network, images, index_B), strict=True)
        return {name: values.to(torch.float16).cpu().numpy() for name, values in latents}

    def _latents(self, network: nn.Module, images_BCHW: Tensor, index_B: Tensor) -> list[Tensor]:
        """Returns the latents in the order of `columns`."""
        import torch

        spec, both = autoencoder_of(self.vae), (images_BCHW, images_BCHW.flip(-1))
        if not spec.draws:
            return [values for images in both for values in spec.encode(network, images)]
        side, channels = spec.latent_shape(images_BCHW.shape[-1])

        def drawn(images: Tensor, number: int) -> Tensor:
            from dgflow.diffusion import noise

            sides = (channels, side, side)
            normal = noise.standard_normal(self.seed, index_B, sides, step=number, draw=noise.POSTERIOR)
            return spec.encode(network, images, normal.float())[0]

        draws = [
            drawn(images, flip * self.draws + number)
            for flip, images in enumerate(both)
            for number in range(self.draws)
        ]
        return [torch.stack(draws, dim=1)]

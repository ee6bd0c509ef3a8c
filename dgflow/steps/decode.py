"""Decode: images from latents, for viewing and for evaluation.

Discriminators are trained on the latents themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import model_validator

from dgflow.networks.families import autoencoder_of
from dgflow.specs.network import DataShape
from dgflow.specs.spec import ActivationPrecision, BatchSize
from dgflow.specs.step import INDEX_AND_LABEL, LOG_RATIO, SampleStep, Slice, Weights, Work
from dgflow.specs.trajectory import Trajectory, left
from dgflow.steps.encode import Encode
from dgflow.steps.pixels import counted, pixels, saturated

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from dgflow.specs.bound import Bound
    from dgflow.store.shards import Columns


class Decode(SampleStep):
    """Images decoded from the latents in the rows of a slice, counted from 0.

    Columns: `index`, `label`, `image` (uint8 [H, W, C]), and `log_ratio` if the samples have it. For an
    `Encode`, the posterior's means are decoded: reconstructions.
    """

    maps: ClassVar[str] = "latents"

    latents: Slice
    vae: Weights
    precision: ActivationPrecision = "float32"  # precision of the convolutions
    batch_size: BatchSize = 32

    @model_validator(mode="after")
    def _fits(self) -> Decode:
        spec = autoencoder_of(self.vae)
        if not self.latents.step.gives_latents:
            raise ValueError(
                "expected latents (a Generate of a network of latents, or an Encode), found "
                f"{self.latents.step.title}"
            )
        shape = self.latents.step.shape
        side, channels = spec.latent_shape(self.vae.step.shape.image_size)
        if shape[:2] != (side, channels):
            raise ValueError(
                f"expected latents of the autoencoder's shape, {channels} channels of {side} a side, found "
                f"{shape.channels} of {shape.image_size}: name the autoencoder that the score network was "
                "trained with"
            )
        if isinstance(self.latents.step, Encode) and "mean" not in self.latents.step.columns:
            raise ValueError(
                "expected latents with a posterior mean, found NVAE's, which has none: decode samples"
            )
        return self

    @property
    def shape(self) -> DataShape:
        return self.vae.step.shape._replace(num_classes=self.latents.step.shape.num_classes)

    @property
    def labelled(self) -> bool:
        return self.latents.step.labelled

    @property
    def gives_log_ratio(self) -> bool:
        return self.latents.step.gives_log_ratio

    @property
    def row_bytes(self) -> int:
        return INDEX_AND_LABEL + self.shape.values + LOG_RATIO * self.gives_log_ratio

    @property
    def length(self) -> int:
        return self.latents.rows

    @property
    def title(self) -> str:
        return f"decoded {self.latents.step.title}"

    def origin(self, part: Slice) -> Slice:
        latents = self.latents
        return latents.step[latents.start + part.start : latents.start + part.stop].origin

    def network_evaluations(self, rows: int) -> int:
        return rows

    def work(self, amount: int) -> list[Work]:
        return [Work(self.vae.step, "decode", amount, self.batch_size, self.precision)]

    def shard_builder(self, inputs: Bound) -> Callable[[int, int], Columns]:
        """Loads the autoencoder; the returned function decodes the rows [start, stop)."""
        import torch

        from dgflow.diffusion.acceleration import device, prepared
        from dgflow.diffusion.batches import Batches

        own_device = device()
        network = prepared(inputs.network("vae"), device=own_device)
        batches = Batches(self.batch_size, of=self.name)
        encoded = isinstance(self.latents.step, Encode)

        def rows(start: int, stop: int) -> Columns:
            columns = inputs.rows("latents", ["label", "mean"] if encoded else None, start, stop)
            latents = torch.from_numpy(columns["mean" if encoded else "latent"])

            def batch(first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
                made = self._images(network, latents[first - start : last - start].to(own_device))
                inputs.show({"index": np.arange(first, last), "image": made[0]})
                return made

            images, flags = (
                np.concatenate(parts) for parts in zip(*batches.map(batch, start, stop), strict=True)
            )
            if inputs.followed is not None and inputs.followed.index == start:
                inputs.followed.keep(partial(self._trajectory, inputs, network, batches.size, own_device))
            carried = {name: columns[name] for name in ("label", "log_ratio") if name in columns}
            made = {"index": np.arange(start, stop, dtype=np.int64), "image": images, **carried}
            return counted(made, flags)

        return rows

    def _trajectory(
        self, inputs: Bound, network: nn.Module, batch_size: int, device: torch.device
    ) -> Trajectory | None:
        """Returns the decoded path of the first sample; None if the step of the latents has none of it."""
        import torch

        from dgflow.specs.bound import BoundRows

        latents = inputs.items["latents"]
        assert isinstance(latents, BoundRows)
        found = left(latents.step_store, latents.manifest.inputs, latents=True)
        if found is None or found.index != latents.start:
            return None
        parts = torch.from_numpy(found.frames).split(batch_size)
        images = np.concatenate([self._images(network, part.to(device))[0] for part in parts])
        return replace(found, frames=images)

    def _images(self, network: nn.Module, latents_BCHW: Tensor) -> tuple[np.ndarray, np.ndarray]:
        import torch

        from dgflow.diffusion.acceleration import autocast

        spec = autoencoder_of(self.vae)
        with torch.no_grad(), autocast(latents_BCHW.device, self.precision):
            images = spec.decode(network, latents_BCHW.float()).float()
        return pixels(images, spec.pixel_offset), saturated(images)

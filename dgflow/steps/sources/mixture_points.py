"""MixturePoints: samples of a Gaussian mixture, as the real data of a recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from dgflow.diffusion.mixture_specs import GaussianMixture
from dgflow.networks.mixture.spec import data_shape
from dgflow.specs.network import DataShape
from dgflow.specs.spec import Seeding
from dgflow.specs.step import INDEX_AND_LABEL, SampleStep

if TYPE_CHECKING:
    from dgflow.specs.bound import Bound
    from dgflow.store.shards import Columns


class MixturePoints(SampleStep):
    """Points of `mixture` by index: point i depends only on (`seed`, i).

    Columns: `index`, `label` (-1), `latent` (float16 [d, 1, 1], as `Generate` stores them; the rounding error
    is at most 2^-11 of a coordinate, for points and generated samples alike).
    """

    mixture: GaussianMixture
    seed: int = Field(default=0, ge=0, lt=2**63)

    @property
    def title(self) -> str:
        return f"points of the mixture, seed {self.seed}"

    @property
    def shape(self) -> DataShape:
        return data_shape(self.mixture)

    @property
    def gives_latents(self) -> bool:
        return True

    @property
    def seeds(self) -> tuple[int, Seeding]:
        return self.seed, "counter"

    @property
    def row_bytes(self) -> int:
        return INDEX_AND_LABEL + 2 * self.shape.values

    def shard_builder(self, inputs: Bound) -> Callable[[int, int], Columns]:
        """Returns a function that draws the points [start, stop)."""
        del inputs
        import torch

        from dgflow.diffusion.mixtures import points

        def rows(start: int, stop: int) -> Columns:
            drawn = points(self.mixture, self.seed, torch.arange(start, stop))
            return {
                "index": np.arange(start, stop, dtype=np.int64),
                "label": np.full(stop - start, -1, dtype=np.int64),
                "latent": drawn.to(torch.float16).numpy()[:, :, None, None],
            }

        return rows

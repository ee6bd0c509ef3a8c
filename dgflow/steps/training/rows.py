"""Rows of training data, and their form as network input: images, latents, or the mean and standard deviation
of latents.

An image may be mirrored. A sampler's latent is used unchanged. For an encoder's rows (`Encode`) a flip and a
draw from the posterior are taken at every use: mean + std * normal, or one of the stored draws. The draws are
a pure function of (seed, use), and for held-out rows of (seed, row).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dgflow.diffusion import noise
from dgflow.store.shards import Columns

_SPREAD = ("mean", "std")
_USE_FLIP, _HELD_FLIP = 2, 3  # steps of noise.FLIP; a classifier's shifts are 0 and 1
_USE_NORMAL, _HELD_NORMAL = 0, 1  # steps of noise.POSTERIOR
_AT_ONCE = 2**22  # normals that are drawn together; each temporarily takes a few hundred bytes


@dataclass(frozen=True)
class Form:
    """The form in which the rows of one step are stored, from its first shard."""

    columns: tuple[str, ...]
    variants: int  # number of variants; each use picks one
    shape: tuple[int, ...]  # of the picked variant
    arrays: int  # arrays of that shape: 1, or 2 for mean and standard deviation
    dtype: np.dtype

    @classmethod
    def of(cls, rows: Columns, *, mirror: bool, source: str) -> Form:
        """Returns the form of decoded rows with all their columns.

        Raises ValueError if there is nothing to train on, or `mirror` is set for latents.
        """
        if "image" in rows:
            return cls(("image",), 2 if mirror else 1, rows["image"].shape[1:], 1, rows["image"].dtype)
        if mirror:
            raise ValueError(f"expected images to mirror, found {sorted(rows)} in {source}; use flip=False")
        if "mean" in rows:
            names = tuple(f"{name}{end}" for name in _SPREAD for end in ("", "_flipped"))
            return cls(names, 2, rows["mean"].shape[1:], 2, rows["mean"].dtype)
        if "latent" in rows:
            values = rows["latent"]
            several = values.ndim == 5  # [n, 2 * draws, C, H, W]
            return cls(
                ("latent",),
                values.shape[1] if several else 1,
                values.shape[2 if several else 1 :],
                1,
                values.dtype,
            )
        raise ValueError(f"expected a column image, latent or mean in {source}, found {sorted(rows)}")

    def variant(self, seed: int, index_B: Tensor, *, held: bool) -> np.ndarray:
        """Returns the variant to pick for each row, int64 [b]."""
        if self.variants == 1 or (held and self.columns == ("image",)):
            return np.zeros(len(index_B), dtype=np.int64)
        return noise.integers(
            seed, index_B, self.variants, step=_HELD_FLIP if held else _USE_FLIP, draw=noise.FLIP
        ).numpy()

    def stored(self, piece: Columns, variant: int) -> list[np.ndarray]:
        """Returns the `arrays` arrays [rows, ...] of a variant, as views of the piece's columns."""
        if self.arrays > 1:
            return [piece[f"{name}_flipped" if variant else name] for name in _SPREAD]
        if "latent" in self.columns:
            return [piece["latent"][:, variant] if self.variants > 1 else piece["latent"]]
        return [piece["image"][:, :, ::-1] if variant else piece["image"]]

    def picked(self, piece: Columns, variant: np.ndarray) -> list[np.ndarray]:
        """Returns the arrays [rows, ...], each row in its variant (int64 [rows])."""
        parts = {number: self.stored(piece, number) for number in np.unique(variant).tolist()}
        return [
            np.stack([parts[number][part][row] for row, number in enumerate(variant.tolist())])
            for part in range(self.arrays)
        ]

    def finished(self, values: Sequence[Tensor], seed: int, index_B: Tensor, *, held: bool) -> Tensor:
        """Returns network input, float32 [b, C, H, W], on the device of `values`."""
        if self.columns == ("image",):
            return scaled(values[0].permute(0, 3, 1, 2).contiguous())
        if self.arrays == 1:
            return values[0].float()
        mean, std = (part.float() for part in values)
        step = _HELD_NORMAL if held else _USE_NORMAL
        return mean + std * normals(
            seed, index_B, self.shape, draw=noise.POSTERIOR, step=step, device=mean.device
        )


def scaled(images: Tensor) -> Tensor:
    """Converts uint8 to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def normals(
    seed: int, index_B: Tensor, shape: Sequence[int], *, draw: int, step: int = 0, device: torch.device
) -> Tensor:
    """Returns `noise.standard_normal` as float32 [b, *shape], computed in chunks of rows; the bits do not
    depend on `device`."""
    rows = max(1, _AT_ONCE // max(1, int(np.prod(shape))))
    parts = index_B.to(device).split(rows)
    return torch.cat(
        [noise.standard_normal(seed, part, shape, step=step, draw=draw).float() for part in parts]
    )

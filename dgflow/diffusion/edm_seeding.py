"""The random numbers of EDM's `generate.py`, with a seeded torch generator per sample, for compatibility.

A generator draws the latent (float32), the class label if the network has labels, then one float64 normal per
sampler step, used or not. The numbers are those of torch's CPU generator; the original code draws different
ones on CUDA.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor


def edm_draws(
    seeds: Iterable[int], shape: Sequence[int], label_dim: int = 0
) -> tuple[Tensor, Tensor | None, Callable[[int], Tensor]]:
    """EDM's draws for these seeds, on the CPU.

    Args:
        seeds: one per sample, taken modulo 2**32 as in the original.
        shape: shape of one sample.
        label_dim: number of classes; 0 for none.

    Returns (latents float32 [B, *shape]; class labels int64 [B], or None; churn_noise(step), float64 [B,
    *shape]). churn_noise takes steps in increasing order and raises ValueError otherwise; skipped steps are
    drawn and discarded.
    """
    generators = [torch.Generator().manual_seed(int(seed) % 2**32) for seed in seeds]

    def normals(dtype: torch.dtype) -> Tensor:
        return torch.stack(
            [torch.randn(*shape, generator=generator, dtype=dtype) for generator in generators]
        )

    latents = normals(torch.float32)
    labels = (
        torch.stack([torch.randint(label_dim, size=[], generator=generator) for generator in generators])
        if label_dim
        else None
    )
    drawn = 0

    def churn_noise(step: int) -> Tensor:
        nonlocal drawn
        if step < drawn:
            raise ValueError(
                f"expected a step not before {drawn}, found {step}: these generators cannot go back"
            )
        while drawn < step:
            normals(torch.float64)
            drawn += 1
        drawn += 1
        return normals(torch.float64)

    return latents, labels, churn_noise

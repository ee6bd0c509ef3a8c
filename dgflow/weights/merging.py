"""Linear extrapolation of weights, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def merged(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], weight: float) -> dict[str, Tensor]:
    """Merge two networks tensor by tensor: (1 + weight) base - weight tuned (Neon, arXiv 2510.03597).

    Values are computed in float64 and rounded once to the format of `base`. Values that are equal in both,
    such as frozen buffers, are copied bit for bit, as are all values at weight 0. Integers, and tensors that
    only `base` has, are copied from `base`.

    Raises:
        ValueError: shapes differ, or `tuned` has tensors that `base` lacks.
    """
    if extra := sorted(tuned.keys() - base.keys()):
        raise ValueError(f"expected only tensors that the base has too, found {extra[0]!r}")
    return {
        name: _merged(name, value, tuned[name], weight) if name in tuned else value.clone()
        for name, value in base.items()
    }


def _merged(name: str, base: Tensor, tuned: Tensor, weight: float) -> Tensor:
    if base.shape != tuned.shape:
        raise ValueError(
            f"{name}: expected tensors of one shape, found {list(base.shape)} and {list(tuned.shape)}"
        )
    if weight == 0 or not base.is_floating_point():
        return base.clone()
    beyond = (1 + weight) * base.double() - weight * tuned.double()
    return torch.where(base == tuned, base, beyond.to(base.dtype))

"""Numpy's `.npz` as weights, such as the `mu` and `sigma` of a published FID reference."""

from __future__ import annotations

import torch

from dgflow.files.locations import LocalLocation
from dgflow.files.npz import InMemory, NpzFile
from dgflow.weights.weight_file import AGAIN, File, WeightFile, as_path, called

MOST = 8 * 2**30  # bytes of all arrays: compression may make a file a thousand times smaller


def read_npz(file: File, *, source: str | None = None) -> WeightFile:
    """The arrays as tensors of the same dtype. Raises ValueError for a damaged file, or not of numbers."""
    name = called(file, source)
    npz = NpzFile(name, InMemory(file) if isinstance(file, bytes) else LocalLocation(str(as_path(file))))
    try:
        if (size := npz.unpacked_size) > MOST:
            raise ValueError(f"{size} bytes of arrays, which may have {MOST}")
        return WeightFile({name: torch.from_numpy(npz.array(name)) for name in npz.names}, {})
    except Exception as error:  # a MemoryError, too: an array's header may claim any size
        found = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(
            f"{name}: expected a whole .npz of numbers, found another file or a damaged one ({found}): "
            f"{AGAIN}"
        ) from error

"""Numpy's `.npz`, such as the `mu` and `sigma` of a published FID reference; arrays of objects, which would
be pickles, are refused."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import torch

from dgflow.weights.weight_file import AGAIN, File, WeightFile, as_path, called

MOST = 8 * 2**30
"""Bytes of the arrays together: these files may be compressed, a thousand times where the numbers are all the
same."""


def read_npz(file: File, *, source: str | None = None) -> WeightFile:
    """The arrays as tensors of the same dtype.

    Raises:
        ValueError: something else, arrays that are not numbers, damaged or cut short.
    """
    opened = io.BytesIO(file) if isinstance(file, bytes) else as_path(file)
    try:
        with zipfile.ZipFile(opened) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MOST:
            raise ValueError(f"{size} bytes of arrays, which may have {MOST}")
        with np.load(opened, allow_pickle=False) as arrays:
            return WeightFile({name: torch.from_numpy(arrays[name]) for name in arrays.files}, {})
    except FileNotFoundError:
        raise
    except Exception as error:  # a MemoryError, too: an array's header may claim any size
        found = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(
            f"{called(file, source)}: expected a whole .npz of numbers, found another file or a damaged "
            f"one ({found}): {AGAIN}"
        ) from error

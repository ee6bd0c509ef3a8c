"""Numpy's `.npz`, such as the `mu` and `sigma` of a published FID reference; arrays of objects, which would be pickles, are refused."""

from __future__ import annotations

import io
import zipfile
import zlib

import numpy as np
import torch

from dgflow.weights.weight_file import File, WeightFile, as_path, called


def read_npz(file: File, *, source: str | None = None) -> WeightFile:
    """The arrays as tensors of the same dtype.

    Raises:
        ValueError: something else, arrays that are not numbers, damaged or cut short.
    """
    opened = io.BytesIO(file) if isinstance(file, bytes) else as_path(file)
    try:
        with np.load(opened, allow_pickle=False) as arrays:
            return WeightFile({name: torch.from_numpy(arrays[name]) for name in arrays.files}, {})
    except (ValueError, TypeError, KeyError, AttributeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{called(file, source)}: expected a whole .npz of numbers, found another file or a damaged one ({error}): fetch it again"
        ) from error

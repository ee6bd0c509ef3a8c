"""A device's memory that does not suffice, by whichever library says so."""

from __future__ import annotations

import torch

_ALLOCATION = ("out of memory", "STATUS_ALLOC_FAILED")
"""Words of CUDA's errors, and of cuBLAS's and cuDNN's, whose workspaces torch's allocator does not hand
out."""


def is_out_of_memory(error: BaseException) -> bool:
    """True for an error that a smaller batch would not have met."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _ALLOCATION)

"""Errors of a device, by their words: memory that does not suffice, and a device that computes no more.

torch, CUDA, cuBLAS and cuDNN each raise errors of their own.
"""

from __future__ import annotations

import torch

_ALLOCATION = ("out of memory", "STATUS_ALLOC_FAILED")
"""Words of CUDA's errors, and of cuBLAS's and cuDNN's, whose workspaces torch's allocator does not hand
out."""

_BROKEN = (
    *(
        "CUDA error:",
        "CUDA driver error:",
        "CUDA unknown error",
        "cuDNN error:",
        "CUBLAS_STATUS_",
        "CUDNN_STATUS_",
    ),
    *("device-side assert", "uncorrectable ECC"),
)
"""Words of errors after which a process's CUDA context fails every call, at once."""


def is_out_of_memory(error: BaseException) -> bool:
    """True for an error that a smaller batch would not have met."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _ALLOCATION)


def is_broken(error: BaseException) -> bool:
    """True for an error of a GPU that no later call of the same process will be without."""
    return (
        isinstance(error, RuntimeError)
        and not is_out_of_memory(error)
        and any(words in str(error) for words in _BROKEN)
    )

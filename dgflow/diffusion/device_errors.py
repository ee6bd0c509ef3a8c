"""Classify device errors by their text: out of memory, and a device that is broken.

torch, CUDA, cuBLAS and cuDNN each raise different errors.
"""

from __future__ import annotations

import torch

_ALLOCATION = ("out of memory", "STATUS_ALLOC_FAILED")
"""Parts of out-of-memory messages: CUDA's, and those of cuBLAS and cuDNN, whose workspaces do not come from
torch's allocator.
"""

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
"""Parts of messages of errors after which every call in the process's CUDA context fails at once."""


def is_out_of_memory(error: BaseException) -> bool:
    """True for an error that a smaller batch would have avoided."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _ALLOCATION)


def is_broken(error: BaseException) -> bool:
    """True for a GPU error that will recur in every later call of the same process."""
    return (
        isinstance(error, RuntimeError)
        and not is_out_of_memory(error)
        and any(words in str(error) for words in _BROKEN)
    )

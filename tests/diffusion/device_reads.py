"""Detection of operations that wait for the device: a number read back to the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal.default")


class ForbidReads(TorchDispatchMode):
    """Fails at item(), bool() of a tensor and boolean indexing, while `forbidden()` says so."""

    def __init__(self, forbidden: Callable[[], bool] = lambda: True) -> None:
        super().__init__()
        self.forbidden = forbidden

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        assert not (any(word in name for word in READS) and self.forbidden()), name
        return func(*args, **(kwargs or {}))

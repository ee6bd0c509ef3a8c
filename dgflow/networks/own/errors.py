"""Report errors in the code of a user's own network, with the file and the line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from dgflow.specs.own_lines import own_frames, shown_path

_OF_THE_DEVICE = re.compile(r"out of memory|alloc|CUDA|cuDNN|cublas|NCCL|HIP error", re.IGNORECASE)
"""Messages of errors that may not recur with another batch, host or attempt."""


@contextmanager
def own_code(factory: str) -> Iterator[None]:
    """A context for a call into a user's own code, which turns an error into a ValueError with file, line and
    function. Device errors, such as out of memory, pass unchanged.
    """
    try:
        yield
    except Exception as error:
        frames = own_frames(error)
        if not frames or (isinstance(error, RuntimeError | MemoryError) and _of_the_device(error)):
            raise
        last = frames[-1]
        place = f"{shown_path(last.filename)}:{last.lineno} in {last.name}"
        line = f" ({last.line})" if last.line else ""
        raise ValueError(f"{factory}: {place}: {type(error).__name__}: {error}{line}") from error


def _of_the_device(error: Exception) -> bool:
    return isinstance(error, MemoryError) or _OF_THE_DEVICE.search(str(error)) is not None

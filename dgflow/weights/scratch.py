"""The folder of this host where downloads and copies of weight files lie: atomic copies, digests, and one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from dgflow.store.identity import sha256_hex


def scratch_folder() -> Path:
    """`dgflow/weights` in the user's cache (XDG_CACHE_HOME, else ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dgflow" / "weights"


def copy_path(scratch: Path, sha256: str, file_name: str) -> Path:
    """Where the copy of a file of that digest lies."""
    return scratch / "copies" / sha256 / file_name


def kept(scratch: Path, data: bytes, file_name: str) -> Path:
    """A copy on this host, which appears whole."""
    path = copy_path(scratch, sha256_hex(data), file_name)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def digest(path: Path) -> str:
    """The sha256 of a file, 64 hex digits, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def alone(scratch: Path, name: str) -> Iterator[None]:
    """One process of this host at a time: two would write into one partial download."""
    scratch.mkdir(parents=True, exist_ok=True)
    with (scratch / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

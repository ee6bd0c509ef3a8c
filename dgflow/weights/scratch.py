"""The folder of this host where downloads and copies of weight files lie: atomic copies, digests, and one
process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from dgflow.store.identity import sha256_hex
from dgflow.store.objects import StoreError

NOTICE_AFTER = 5.0  # seconds of waiting for another process, before a line says so

_log = logging.getLogger(__name__)


def scratch_folder() -> Path:
    """`dgflow/weights` in the user's cache (XDG_CACHE_HOME, else ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dgflow" / "weights"


def copy_path(scratch: Path, sha256: str, file_name: str) -> Path:
    """The path of the copy of a file of that digest."""
    return scratch / "copies" / sha256 / file_name


def kept(scratch: Path, data: bytes, file_name: str) -> Path:
    """A copy on this host, which appears whole. Raises StoreError where it cannot be written."""
    path = copy_path(scratch, sha256_hex(data), file_name)
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    with file_errors(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def digest(path: Path) -> str:
    """The sha256 of a file, 64 hex digits, read in pieces. Raises StoreError where it cannot be read."""
    with file_errors(f"read {path}"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def file_errors(attempted: str) -> Iterator[None]:
    """Make a StoreError with a remedy of what the file system refuses inside."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"could not {attempted}: {error.strerror or error}; see that it can be read and written and that "
            "the disk has room, or set XDG_CACHE_HOME to a folder elsewhere, and run again"
        ) from error


@contextlib.contextmanager
def alone(scratch: Path, name: str) -> Iterator[None]:
    """One process of this host at a time: two would write into one partial download."""
    path = scratch / f"{name}.lock"
    with file_errors(f"write {path}"):
        scratch.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        notice = threading.Timer(
            NOTICE_AFTER,
            _log.warning,
            ["waiting for another process, which fetches %s and holds %s", name, path],
        )
        notice.daemon = True
        notice.start()
        try:
            with file_errors(f"lock {path}"):
                fcntl.flock(file, fcntl.LOCK_EX)
        finally:
            notice.cancel()
        yield

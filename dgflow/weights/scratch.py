"""The local folder for downloads and copies of weight files."""

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

from dgflow.store.objects import StoreError

NOTICE_AFTER = 5.0  # seconds of waiting for another process before the wait is logged

_log = logging.getLogger(__name__)


def scratch_folder() -> Path:
    """Return `dgflow/weights` in the user's cache (XDG_CACHE_HOME, or else ~/.cache). Raises StoreError if
    there is none.
    """
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise StoreError(
            "expected a folder for downloads, found neither XDG_CACHE_HOME nor a home folder of this user; "
            "set XDG_CACHE_HOME to a folder that can be written to"
        ) from error
    return cache.absolute() / "dgflow" / "weights"


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically. Raises StoreError if it cannot be written."""
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    with file_errors(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def digest(path: Path) -> str:
    """The sha256 of a file, 64 hex digits. Raises StoreError if it cannot be read."""
    with file_errors(f"read {path}"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def file_errors(attempt: str) -> Iterator[None]:
    """Turn file system errors into StoreErrors with a remedy."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"could not {attempt}: {error.strerror or error}; check that it can be read and written and that "
            "the disk has room, or set XDG_CACHE_HOME to another folder (by default .cache in HOME), and run "
            "again"
        ) from error


@contextlib.contextmanager
def alone(scratch: Path, name: str, level: int = logging.WARNING) -> Iterator[None]:
    """A context that only one process of this host enters at a time, since two would write into the same
    partial download. A long wait is logged at `level`.
    """
    path = scratch / f"{name}.lock"
    with file_errors(f"write {path}"):
        scratch.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        message = "waiting for another process, which fetches %s and holds %s"
        notice = threading.Timer(NOTICE_AFTER, _log.log, [level, message, name, path])
        notice.daemon = True
        notice.start()
        try:
            with file_errors(f"lock {path}"):
                fcntl.flock(file, fcntl.LOCK_EX)
        finally:
            notice.cancel()
        yield

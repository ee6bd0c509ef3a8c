"""A partial download: the bytes received so far, and a note that says to which version of a file they
belong."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Any, BinaryIO

from dgflow.store.identity import sha256_hex


class Partial:
    """The partial download of one destination. Every method raises OSError if the file system fails.

    Links in place of the two files are not followed, since they may lead anywhere.
    """

    def __init__(self, destination: Path) -> None:
        self.destination = destination
        self.path = destination.with_name(f"{destination.name}.partial")
        self.note = destination.with_name(f"{destination.name}.partial.json")

    def size(self) -> int:
        """Number of bytes received so far."""
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(self.path)
            return status.st_size if stat.S_ISREG(status.st_mode) else 0
        return 0

    def version(self, url: str) -> dict[str, Any]:
        """The `validator` and `size` of the file being downloaded; {} if the note is missing, damaged or of
        another URL."""
        with contextlib.suppress(OSError, ValueError):
            note = json.loads(self.note.read_text())
            if isinstance(note, dict) and note.get("url_sha256") == _digest(url) and self.size():
                validator, size = note.get("validator"), note.get("size")
                is_header = isinstance(validator, str) and re.fullmatch(r"[ -~]+", validator)
                if is_header and (size is None or type(size) is int):
                    return {"validator": validator, "size": size}
        return {}

    def begin(self, url: str, validator: str | None, size: int | None) -> None:
        """Discard the bytes and start another version of the file."""
        self.opened(os.O_TRUNC).close()
        self.describe(url, validator, size)

    def describe(self, url: str, validator: str | None, size: int | None) -> None:
        """Write the note: a digest of the URL, which may be secret, the ETag or date, and the file's size."""
        note = {"url_sha256": _digest(url), "validator": validator, "size": size}
        with _opened(self.note, os.O_TRUNC) as file:
            file.write(json.dumps(note).encode())

    def opened(self, flag: int) -> BinaryIO:
        """Open the bytes for writing with O_TRUNC or O_APPEND."""
        return _opened(self.path, flag)

    def finish(self) -> None:
        """Flush the bytes to disk, and rename the file to the destination."""
        with self.opened(os.O_APPEND) as file:
            os.fsync(file.fileno())  # so that the destination is complete even after a crash of the host
        os.replace(self.path, self.destination)
        self.note.unlink(missing_ok=True)


def _opened(path: Path, flag: int) -> BinaryIO:
    """Open a file for unbuffered writing, so that a full disk fails at the write."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | flag, 0o666), "wb", buffering=0)


def _digest(url: str) -> str:
    return sha256_hex(url.encode())

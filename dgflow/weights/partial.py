"""A partial download: its bytes so far, and a note beside them of the file that they belong to."""

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
    """The partial download of one destination. Every method raises OSError if the file system refuses.

    Links in the place of its files are not followed: they may lead anywhere.
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
        """`validator` and `size` of the bytes' file; {} if the note is damaged or of another url."""
        with contextlib.suppress(OSError, ValueError):
            note = json.loads(self.note.read_text())
            if isinstance(note, dict) and note.get("url_sha256") == _digest(url) and self.size():
                validator, size = note.get("validator"), note.get("size")
                is_header = isinstance(validator, str) and re.fullmatch(r"[ -~]+", validator)
                if is_header and (size is None or type(size) is int):
                    return {"validator": validator, "size": size}
        return {}

    def begin(self, url: str, validator: str | None, size: int | None) -> None:
        """Drops the bytes, for another version of the file to follow."""
        self.opened(os.O_TRUNC).close()
        self.describe(url, validator, size)

    def describe(self, url: str, validator: str | None, size: int | None) -> None:
        """Writes the note: a digest of `url`, as it may be secret, the ETag or date, and the file's size."""
        note = {"url_sha256": _digest(url), "validator": validator, "size": size}
        with _opened(self.note, os.O_TRUNC) as file:
            file.write(json.dumps(note).encode())

    def opened(self, flag: int) -> BinaryIO:
        """The bytes, opened for writing with O_TRUNC or O_APPEND."""
        return _opened(self.path, flag)

    def finish(self) -> None:
        """Gives the bytes the destination's name, once they are on the disk."""
        with self.opened(os.O_APPEND) as file:
            os.fsync(file.fileno())  # so that what has the name is whole even after a crash of the host
        os.replace(self.path, self.destination)
        self.note.unlink(missing_ok=True)


def _opened(path: Path, flag: int) -> BinaryIO:
    """The file, opened for writing without a buffer, so that a full disk fails where bytes are written."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | flag, 0o666), "wb", buffering=0)


def _digest(url: str) -> str:
    return sha256_hex(url.encode())

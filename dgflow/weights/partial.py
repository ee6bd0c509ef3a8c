"""A download that is not complete: its bytes so far, and a note beside them of the file that they belong to.

A damaged note, or one of another url, counts as none; a link in the place of either file is not followed;
only bytes that are on the disk get the destination's name.
"""

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
    """The partial download of one destination. Every method raises OSError where the file system refuses."""

    def __init__(self, destination: Path) -> None:
        self.destination = destination
        self.path = destination.with_name(f"{destination.name}.partial")
        self.note = destination.with_name(f"{destination.name}.partial.json")

    def size(self) -> int:
        """Bytes that are here."""
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(self.path)
            return status.st_size if stat.S_ISREG(status.st_mode) else 0
        return 0

    def version(self, url: str) -> dict[str, Any]:
        """`validator` and `size` of the file that the bytes here belong to; {} where that is not known."""
        with contextlib.suppress(OSError, ValueError):
            note = json.loads(self.note.read_text())
            if isinstance(note, dict) and note.get("url_sha256") == _digest(url) and self.size():
                validator, size = note.get("validator"), note.get("size")
                if _is_header(validator) and (size is None or type(size) is int):
                    return {"validator": validator, "size": size}
        return {}

    def begin(self, url: str, validator: str | None, size: int | None) -> None:
        """Throw away what is here: another version of the file follows."""
        self.opened(os.O_TRUNC).close()
        self.describe(url, validator, size)

    def describe(self, url: str, validator: str | None, size: int | None) -> None:
        """Write the note: the digest of `url`, which may be secret; the ETag or date that the server gave;
        and the whole file's bytes."""
        with _opened_to_write(self.note, os.O_TRUNC) as file:
            file.write(
                json.dumps({"url_sha256": _digest(url), "validator": validator, "size": size}).encode()
            )

    def opened(self, flag: int) -> BinaryIO:
        """To write with O_TRUNC or O_APPEND."""
        return _opened_to_write(self.path, flag)

    def finish(self) -> None:
        """Give the bytes the destination's name."""
        with self.opened(os.O_APPEND) as file:
            os.fsync(
                file.fileno()
            )  # before it has its name: after a crash of the host, what has it must be whole
        os.replace(self.path, self.destination)
        self.note.unlink(missing_ok=True)


def _opened_to_write(path: Path, flag: int) -> BinaryIO:
    """Unbuffered, so that a full disk is met where bytes are written. A link in the file's place is refused:
    it may lead anywhere."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | flag, 0o666), "wb", buffering=0)


def _digest(url: str) -> str:
    return sha256_hex(url.encode())


def _is_header(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[ -~]+", value) is not None

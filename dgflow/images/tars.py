"""Pictures in tars: one tar, one tar of tars, or a folder of tars; plain, or compressed with gzip.

Promises that members are read where they lie, by offset. A compressed tar is decompressed once a process,
into a temporary file that goes with the process. What a tar within a tar or a folder holds, is listed below
the name of that tar, so that it is the name of the class.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple, cast

from dgflow.images.places import LocalPlace, Place, is_shown

SUFFIXES = (".tar", ".tar.gz", ".tgz")

_END = 512  # bytes of a header, and of the empty one that ends a tar
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)


class Member(NamedTuple):
    name: str
    size: int  # bytes
    offset: int  # in the decompressed tar
    crc: int  # of its header


def is_tar(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def is_compressed(name: str) -> bool:
    return not name.lower().endswith(".tar")


def stem(name: str) -> str:
    """The name of a tar without folders and suffix."""
    base = name.rpartition("/")[2]
    return base[: -max(len(suffix) for suffix in SUFFIXES if base.lower().endswith(suffix))]


def open_tar(place: Place, name: str) -> IO[bytes]:
    """The decompressed tar at `place`, or in the folder there.

    Raises ValueError where a compressed one is damaged or cut short.
    """
    where = f"{place.url}/{name}".rstrip("/")
    file = place.open(name)
    if not is_compressed(where):
        # Without its buffer, a look at a header reads no more than the header.
        return cast(IO[bytes], file.detach()) if isinstance(place, LocalPlace) else file
    whole = tempfile.TemporaryFile()  # noqa: SIM115 (it is what is returned)
    try:
        with file, gzip.open(file) as stream:
            shutil.copyfileobj(stream, whole, 2**20)
    except _DAMAGED as error:
        whole.close()
        raise ValueError(
            f"expected a whole compressed tar at {where}, found a damaged one or one that is cut short "
            f"({error})"
        ) from error
    return whole


def members(file: IO[bytes], where: str) -> Iterator[Member]:
    """Every shown regular file of a tar, and of the tars in it.

    Raises ValueError for what is no tar, or is cut short.
    """
    yield from _members(file, where, 0)


def read_member(file: IO[bytes], offset: int, size: int, crc: int) -> bytes | None:
    """The file whose data are at `offset`; None where another header than that of `crc` stands before it."""
    file.seek(offset - _END)
    data = file.read(_END + size)
    return data[_END:] if zlib.crc32(data[:_END]) == crc else None


def content_sha256(file: IO[bytes]) -> str:
    """Of a decompressed tar."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType] (a file of bytes)


def _members(file: IO[bytes], where: str, start: int) -> Iterator[Member]:
    try:
        file.seek(0)
        tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 (it has nothing of its own to close)
        while (member := tar.next()) is not None:
            tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] (documented; a million of them need a gigabyte)
            name = member.name.removeprefix("./")
            if not member.isreg() or not is_shown(name):
                continue
            if not name.lower().endswith(".tar"):
                file.seek(member.offset_data - _END)
                yield Member(name, member.size, start + member.offset_data, zlib.crc32(file.read(_END)))
                continue
            inner = _Window(file, member.offset_data, member.size)
            for one in _members(cast(IO[bytes], inner), f"{where}: {name}", start + member.offset_data):
                yield one._replace(name=f"{stem(name)}/{one.name}")
        file.seek(tar.offset)
        if len(file.read(_END)) < _END:
            raise tarfile.ReadError("no mark at its end")
    except tarfile.TarError as error:
        raise ValueError(
            f"expected a whole tar at {where}, found another file, or one that is cut short ({error}); "
            "fetch it again"
        ) from error


class _Window(io.RawIOBase):
    """A range of a file as a file."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._file, self._start, self._size, self._position = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = (
            offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        )
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer) -> int:  # pyright: ignore[reportIncompatibleMethodOverride] (the annotation of the base needs 3.12)
        self._file.seek(self._start + self._position)
        data = self._file.read(min(len(buffer), max(self._size - self._position, 0)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

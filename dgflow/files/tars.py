"""Tars, plain or compressed with gzip: every file listed, and read by offset.

A compressed tar is decompressed once per process, into a temporary file that ends with the process. The files
of a tar within a tar are listed below that tar's name, as the files of a folder.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple, cast

from dgflow.files.locations import LocalLocation, Location, is_shown, ranged, window

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


def open_tar(location: Location, name: str) -> IO[bytes]:
    """The decompressed tar at `location`, or in the folder there.

    Raises ValueError where a compressed one is damaged or cut short.
    """
    where = f"{location.url}/{name}".rstrip("/")
    file = location.open(name)
    if not is_compressed(where):
        # Without its buffer, a look at a header reads no more than the header.
        return cast(IO[bytes], file.detach()) if isinstance(location, LocalLocation) else file
    with tempfile.TemporaryFile() as whole:
        try:
            with file, gzip.open(file) as stream:
                shutil.copyfileobj(stream, whole, 2**20)
        except _DAMAGED as error:
            raise ValueError(
                f"expected a whole compressed tar at {where}, found a damaged one or one that is cut short "
                f"({error})"
            ) from error
        whole.flush()
        return ranged(os.dup(whole.fileno()))


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
    """The sha256 of a decompressed tar."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType] (a file of bytes)


def _members(file: IO[bytes], where: str, start: int) -> Iterator[Member]:
    try:
        file.seek(0)
        tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 (it has nothing of its own to close)
        while (member := tar.next()) is not None:
            tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] (a million of them need a gigabyte)
            name = member.name.removeprefix("./")
            if not member.isreg() or not is_shown(name):
                continue
            if not name.lower().endswith(".tar"):
                file.seek(member.offset_data - _END)
                yield Member(name, member.size, start + member.offset_data, zlib.crc32(file.read(_END)))
                continue
            inner = cast(IO[bytes], window(file, member.offset_data, member.size))
            for one in _members(inner, f"{where}: {name}", start + member.offset_data):
                yield one._replace(name=f"{stem(name)}/{one.name}")
        file.seek(tar.offset)
        if len(file.read(_END)) < _END:
            raise tarfile.ReadError("no mark at its end")
    except tarfile.TarError as error:
        raise ValueError(
            f"expected a whole tar at {where}, found another file, or one that is cut short ({error}); "
            "fetch it again"
        ) from error

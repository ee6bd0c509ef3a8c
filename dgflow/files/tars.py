"""List and read the files of a tar, plain or gzip-compressed, by offset.

A compressed tar is decompressed once per process, into a temporary file that is removed when the process
ends. A tar that expands more than compressed pictures can is refused. The files of a tar inside a tar are
listed below the name of the inner tar, like the files of a folder.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import tarfile
import tempfile
import zlib
from typing import IO, NamedTuple, cast

from dgflow.files.locations import LocalLocation, Location, ranged, window
from dgflow.files.names import is_shown

SUFFIXES = (".tar", ".tar.gz", ".tgz")

_END = 512  # bytes of a header, and of the empty block that ends a tar
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)
_BLOCK = 2**20
# Maximum expansion, and bytes that are always allowed. Compressed pictures hardly shrink further, headers of
# tiny files shrink tenfold; gzip permits a thousandfold.
_MOST_GROWTH, _SMALL = 100, 2**28
_MOST_LEVELS = 4  # nesting depth of tars; data sets use two
_MOST_HEADER = 2**20  # bytes of a header's extension, such as a long name


class Member(NamedTuple):
    name: str
    size: int  # size in bytes
    offset: int  # offset in the decompressed tar
    crc: int  # CRC of its header
    link: str = ""  # for a hard link, the name of the target file, which holds the data


class Listed(NamedTuple):
    """The files of a tar, and the names of members without data (symbolic links, devices)."""

    members: list[Member]
    unusable: list[str]


def is_tar(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def is_compressed(name: str) -> bool:
    return not name.lower().endswith(".tar")


def stem(name: str) -> str:
    """The file name of a tar without folders and suffix."""
    base = name.rpartition("/")[2]
    return base[: -max(len(suffix) for suffix in SUFFIXES if base.lower().endswith(suffix))]


def open_tar(location: Location, name: str) -> IO[bytes]:
    """Open the decompressed tar at `location`, or at `name` in the folder there.

    Raises ValueError if a compressed tar is damaged or truncated.
    """
    where = f"{location.url}/{name}".rstrip("/")
    file = location.open(name)
    if not is_compressed(where):
        # Unbuffered, so that reading a header fetches only the header.
        return cast(IO[bytes], file.detach()) if isinstance(location, LocalLocation) else file
    compressed = file.seek(0, 2)
    file.seek(0)
    with tempfile.TemporaryFile() as whole:
        try:
            with file, gzip.open(file) as stream:
                _decompress(stream, whole, compressed, where)
        except _DAMAGED as error:
            raise ValueError(
                f"expected a whole compressed tar at {where}, found a damaged or truncated one ({error})"
            ) from error
        whole.flush()
        return ranged(os.dup(whole.fileno()))


def members(file: IO[bytes], where: str) -> Listed:
    """List every non-hidden file of a tar and of the tars inside it.

    Raises ValueError for a file that is not a tar, is truncated, or is nested too deeply.
    """
    listed = Listed([], [])
    _list(file, where, 0, "", 1, listed)
    return listed


def read_member(file: IO[bytes], offset: int, size: int, crc: int) -> bytes | None:
    """Read the file whose data start at `offset`; None if the header before it does not match `crc`."""
    file.seek(offset - _END)
    data = file.read(_END + size)
    return data[_END:] if zlib.crc32(data[:_END]) == crc else None


def content_sha256(file: IO[bytes]) -> str:
    """Compute the sha256 of a decompressed tar."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType] (a file of bytes)


def _decompress(stream: gzip.GzipFile, out: IO[bytes], compressed: int, where: str) -> None:
    most, done = max(_SMALL, _MOST_GROWTH * compressed), 0
    try:
        while block := stream.read(_BLOCK):
            done += len(block)
            if done > most:
                raise ValueError(
                    f"expected at most {most:,} bytes in the tar of {compressed:,} compressed bytes at "
                    f"{where}, found more than pictures can expand to; if you trust that file, decompress it "
                    "and give the .tar"
                )
            out.write(block)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(
            f"expected free space in {tempfile.gettempdir()} to decompress {where}, found none after "
            f"{done:,} bytes; set TMPDIR to a larger disk, or give an uncompressed .tar"
        ) from error


def _list(file: IO[bytes], where: str, start: int, prefix: str, level: int, listed: Listed) -> None:
    """Add the files of the tar that begins at byte `start` of the outermost tar, with names below
    `prefix`.
    """
    if level > _MOST_LEVELS:
        raise ValueError(
            f"expected tars in tars at most {_MOST_LEVELS} levels deep, found more at {where}; unpack it"
        )
    first = len(listed.members)
    try:
        file.seek(0)
        headers = cast(IO[bytes], _Headers(file))
        tar = tarfile.open(fileobj=headers, mode="r:")  # noqa: SIM115 (it owns no resource)
        while (member := tar.next()) is not None:
            tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] (a million of them need a gigabyte)
            name = member.name.removeprefix("./")
            if member.isdir() or not is_shown(name):
                continue
            if member.islnk():
                target = prefix + member.linkname.removeprefix("./")
                listed.members.append(Member(prefix + name, 0, 0, 0, target))
            elif not member.isreg() or member.issparse():
                listed.unusable.append(prefix + name)
            elif name.lower().endswith(".tar"):
                inner = cast(IO[bytes], window(file, member.offset_data, member.size))
                below = f"{prefix}{stem(name)}/"
                _list(inner, f"{where}: {name}", start + member.offset_data, below, level + 1, listed)
            else:
                file.seek(member.offset_data - _END)
                crc = zlib.crc32(file.read(_END))
                listed.members.append(Member(prefix + name, member.size, start + member.offset_data, crc))
        file.seek(tar.offset)
        if len(file.read(_END)) < _END:
            raise tarfile.ReadError("no end-of-archive block")
    except tarfile.TarError as error:
        raise ValueError(
            f"expected a whole tar at {where}, found another kind of file or a truncated one ({error}); "
            "download it again"
        ) from error
    _resolve(listed, first)


def _resolve(listed: Listed, first: int) -> None:
    """Point the hard links among the members from `first` on to the data of their targets."""
    links = [number for number in range(first, len(listed.members)) if listed.members[number].link]
    if not links:
        return
    files = {member.name: member for member in listed.members[first:] if not member.link}
    lost = []
    for number in links:
        link = listed.members[number]
        target = files.get(link.link)
        if target is None:
            lost.append(number)
        else:
            listed.members[number] = target._replace(name=link.name, link=link.link)
    listed.unusable.extend(listed.members[number].name for number in lost)
    for number in reversed(lost):
        del listed.members[number]


class _Headers:
    """A tar from which tarfile reads headers; refuses a header of megabytes before reading it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)

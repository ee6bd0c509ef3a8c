"""List the files of a zip from its directory, and read them by offset without the directory."""

from __future__ import annotations

import bz2
import lzma
import stat
import struct
import zipfile
import zlib
from typing import IO, NamedTuple

from dgflow.files.locations import Location
from dgflow.files.names import is_shown

DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, lzma.LZMAError)
"""Errors of a damaged member (bz2 raises OSError)."""

_LOCAL_HEADER = struct.Struct("<8xH16xHH")  # compression method, lengths of the name and the extra field
_ENCRYPTED = 1
_LZMA_MEMORY = 2**28  # bytes, four times what the highest presets need
# Each function returns at most `most` bytes, regardless of the size that the member declares.
_DECOMPRESS = {
    zipfile.ZIP_STORED: lambda data, most: data,
    zipfile.ZIP_DEFLATED: lambda data, most: zlib.decompressobj(-15).decompress(data, most),
    zipfile.ZIP_BZIP2: lambda data, most: bz2.BZ2Decompressor().decompress(data, most),
    zipfile.ZIP_LZMA: lambda data, most: _lzma(data, most),
}


MOST = 2**30
"""Maximum bytes of a file that is read whole; every picture that PIL agrees to decode is smaller."""


class Member(NamedTuple):
    name: str  # path with `/`, even if Windows wrote backslashes
    size: int  # decompressed bytes
    offset: int  # offset of its header
    stored: int  # compressed bytes
    crc: int
    is_link: bool = False  # True if the data is the name of another file


def members(location: Location, source: str) -> list[Member]:
    """List every non-hidden file of a zip.

    Raises ValueError for a file that is not a zip, is truncated or encrypted, or uses a compression that
    Python cannot read.
    """
    try:
        with location.open() as file, zipfile.ZipFile(file) as archive:
            entries = [entry for entry in archive.infolist() if is_shown(_name(entry))]
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"expected a zip at {source}, found another kind of file or a truncated one ({error}); download "
            "it again"
        ) from error
    for entry in entries:
        if entry.flag_bits & _ENCRYPTED or entry.compress_type not in _DECOMPRESS:
            raise ValueError(
                f"expected files that are stored, or compressed with deflate, bzip2 or lzma, and not "
                f"encrypted in {source}, found {entry.filename}; write that zip again"
            )
    return [
        Member(
            _name(entry),
            entry.file_size,
            entry.header_offset,
            entry.compress_size,
            entry.CRC,
            stat.S_ISLNK(entry.external_attr >> 16),
        )
        for entry in entries
    ]


def _name(entry: zipfile.ZipInfo) -> str:
    return entry.filename.replace("\\", "/").removeprefix("./")


def data_offset(file: IO[bytes], header_offset: int) -> tuple[int, int]:
    """Read the start of a member's data and its compression from the member's own header, which may be longer
    than the directory states. Raises EOFError if the file ends before the data.
    """
    file.seek(header_offset)
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size:
        raise EOFError("the zip ends before the file")
    method, name, extra = _LOCAL_HEADER.unpack(header)
    return header_offset + _LOCAL_HEADER.size + name + extra, method


def read_member(file: IO[bytes], offset: int, stored: int, size: int, crc: int) -> bytes:
    """Read the file whose header is at `offset`.

    Raises ValueError if the bytes do not match `crc` or are too many.
    """
    if size > MOST:
        raise ValueError(f"{size:,} bytes, more than the maximum of {MOST:,}")
    try:
        start, method = data_offset(file, offset)
        file.seek(start)
        data = _DECOMPRESS[method](file.read(stored), size + 1)
    except (*DAMAGED, KeyError) as error:
        raise ValueError(str(error)) from error
    if len(data) != size or zlib.crc32(data) != crc:
        raise ValueError("its checksum differs from the one in the zip's directory")
    return data


def _lzma(data: bytes, most: int) -> bytes:
    """Decompress an LZMA member. It begins with a version, the length of the coder's properties (5) and the
    properties; a file of format "alone" has the properties and the size, unknown here, before the same
    stream.
    """
    if data[2:4] != b"\x05\x00":
        raise EOFError("no lzma properties")
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_LZMA_MEMORY)
    # One byte less than `most`: without an end marker, bytes after the data can be decoded too.
    return decompressor.decompress(data[4:9] + b"\xff" * 8 + data[9:], most - 1)

"""Pictures in a zip, listed from its directory and read by offset.

Promises that a picture comes with the checksum that the directory has of it, or not at all.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from typing import IO, NamedTuple

from dgflow.images.places import Place, is_shown

_LOCAL_HEADER = struct.Struct(
    "<8xH16xHH"
)  # of a member: how it is compressed, the lengths of its name and its extra field
_ENCRYPTED = 1


class Member(NamedTuple):
    name: str
    size: int  # bytes
    offset: int  # of its header
    stored: int  # bytes in the zip
    crc: int


def members(place: Place, source: str) -> list[Member]:
    """Every shown file of a zip.

    Raises ValueError for what is no zip, is cut short, or is encrypted or compressed in a rare way.
    """
    try:
        with place.open() as file, zipfile.ZipFile(file) as archive:
            entries = [entry for entry in archive.infolist() if is_shown(entry.filename)]
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"expected a zip at {source}, found another file or one that is cut short ({error}); fetch it "
            "again"
        ) from error
    for entry in entries:
        if entry.flag_bits & _ENCRYPTED or entry.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            raise ValueError(
                f"expected files that are stored or deflated in {source}, found {entry.filename}; write "
                "that zip anew"
            )
    return [
        Member(entry.filename, entry.file_size, entry.header_offset, entry.compress_size, entry.CRC)
        for entry in entries
    ]


def read_member(file: IO[bytes], offset: int, stored: int, size: int, crc: int) -> bytes:
    """The file whose header is at `offset`. Raises ValueError where it is damaged."""
    file.seek(offset)
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size:
        raise ValueError("the zip ends before it")
    method, name, extra = _LOCAL_HEADER.unpack(header)
    file.seek(offset + _LOCAL_HEADER.size + name + extra)
    data = file.read(stored)
    if method == zipfile.ZIP_DEFLATED:
        try:
            data = zlib.decompressobj(-15).decompress(data, size + 1)  # whatever it says of itself
        except zlib.error as error:
            raise ValueError(str(error)) from error
    if len(data) != size or zlib.crc32(data) != crc:
        raise ValueError("its checksum is not that of the zip's directory")
    return data

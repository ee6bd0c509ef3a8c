"""Checks the headers of many pictures for properties that would stop their import later: transparency, and
more than 8 bits per channel.

Only pictures on a local disk are checked, whose first bytes are read in a fraction of the time of the import.
For other pictures, and after a time limit, the error is raised when the picture itself is read.
"""

from __future__ import annotations

import contextlib
import time
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

import numpy as np

from dgflow.files import tars, zips
from dgflow.files.locations import LocalLocation, Location
from dgflow.images.listing import Changed, Listing
from dgflow.images.readers import Reader

SECONDS = 60.0
_FORMS = ("folder", "zip", "tar")
_HEAD = 1024  # bytes read; they contain a PNG's bit depth, and usually its transparency
_PNG, _WEBP = b"\x89PNG", b"WEBPVP8"
_DEPTH, _COLOUR, _WITH_ALPHA = 24, 25, (4, 6)  # fields of a PNG header


def check_headers(reader: Reader, seconds: float = SECONDS) -> None:
    """Raises ValueError for the first picture that has transparent pixels (unless `reader` drops alpha) or
    more than 8 bits per channel. Stops after `seconds`."""
    end = time.monotonic() + seconds
    if reader.listing.form not in _FORMS:
        return
    with contextlib.suppress(OSError, EOFError, Changed):  # reported later, when the pictures are read
        for row, head in _heads(reader.listing, reader.location):
            if time.monotonic() > end:
                return
            if _is_unusual(head):
                reader.check(row)


def _heads(listing: Listing, location: Location) -> Iterator[tuple[int, bytes]]:
    """Yields rows and the first bytes of their pictures on a local disk. Pictures that would need more
    reading are skipped."""
    if not isinstance(location, LocalLocation):
        return
    if listing.form == "folder":
        assert listing.names is not None
        for row, name in enumerate(listing.names):
            with open(location.path / name.as_py(), "rb", buffering=0) as file:
                yield row, file.read(_HEAD)
    elif listing.form == "zip":
        with location.open() as file:
            for row, offset in enumerate(listing.columns["offset"].tolist()):
                start, method = zips.data_offset(file, offset)
                if method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    yield row, _inflated(_at(file, start), method)
    elif listing.form == "tar":
        numbers, offsets = listing.columns["file"], listing.columns["offset"]
        for number, (name, _) in enumerate(listing.files):
            if tars.is_compressed(name or location.url):
                continue
            with location.open(name) as file:
                for row in np.flatnonzero(numbers == number).tolist():
                    yield row, _at(file, int(offsets[row]))


def _at(file: IO[bytes], offset: int) -> bytes:
    file.seek(offset)
    return file.read(_HEAD)


def _inflated(data: bytes, method: int) -> bytes:
    if method == zipfile.ZIP_STORED:
        return data
    with contextlib.suppress(zlib.error):
        return zlib.decompressobj(-15).decompress(data, _HEAD)
    return b""


def _is_unusual(head: bytes) -> bool:
    """Returns True if the picture may have an alpha channel or more than 8 bits per channel."""
    if head.startswith(_PNG) and len(head) > _COLOUR:
        return head[_DEPTH] > 8 or head[_COLOUR] in _WITH_ALPHA or b"tRNS" in head
    return head[8:15] == _WEBP and head[15:16] in b"XL"

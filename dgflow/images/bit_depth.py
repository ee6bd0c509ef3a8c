"""Reads what PIL does not report of a picture's header: the bits per channel, which PIL silently reduces to
8. Removes the text chunks of a PNG, since PIL refuses chunks of more than a megabyte."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from PIL import Image

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_DEPTH = 24  # position of the byte that holds a PNG's bits per channel
_BITS_PER_SAMPLE = 258  # TIFF tag
_NOTES = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # chunks of a PNG that do not change pixels


def bits_per_channel(data: bytes, image: Image.Image) -> int:
    """Returns the bits per channel of the file `data`, at least 8. `image` is the opened file, not yet
    loaded."""
    bits = 16 if image.mode[0] in "IF" else 8  # integers or floats of 16 or 32 bits, counted as 16
    if image.format == "PNG":
        return max(bits, data[_PNG_DEPTH])
    if image.format == "TIFF":
        stated = image.tag_v2.get(_BITS_PER_SAMPLE, 8)  # pyright: ignore[reportAttributeAccessIssue]
        return max(bits, *(stated if isinstance(stated, tuple) else (stated,)))
    if image.format == "PPM":
        arguments = image.tile[0].args  # pyright: ignore[reportAttributeAccessIssue] (of its decoder)
        largest = arguments[1] if isinstance(arguments, tuple) else 255
        return max(bits, int(largest).bit_length())
    return bits


def without_notes(png: bytes) -> bytes:
    """Returns the PNG without its text chunks and colour profile."""
    return _PNG + b"".join(chunk for kind, chunk in _chunks(png) if kind not in _NOTES)


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the kind and the bytes of each chunk, including length and checksum."""
    start = len(_PNG)
    while start + 8 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, start)
        yield kind, png[start : start + 12 + length]
        start += 12 + length

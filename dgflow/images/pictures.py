"""One picture file as pixels, as PIL decodes it and as the standard evaluators see it: EXIF rotation is not
applied, a colour profile is not applied, and of several frames the first is taken.

Transparency has no one meaning (evaluators drop it, viewers draw it over white), so pictures that have any
are refused unless it is to be dropped; an alpha channel that is opaque everywhere is dropped. A picture is
read by its content, whatever its suffix.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Literal, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from dgflow.images.bit_depth import bits_per_channel, without_notes

FORMER_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
"""Those that earlier versions listed."""
SUFFIXES = (*FORMER_SUFFIXES, *(".jpe", ".jfif", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm"))
"""Those that clean-fid and pytorch-fid read, and more names of the same formats."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
"""The formats that PIL may open: no other decoder of its many, and no external program, sees a file."""

Channels = Literal[1, 3]
T = TypeVar("T")


def decode_picture(data: bytes, name: str, drop_alpha: bool = False) -> np.ndarray:
    """The picture in these bytes, uint8 [H, W, 3], or [H, W, 1] of one that is grey.

    With `drop_alpha` an alpha channel is left out, as `PIL.Image.convert("RGB")` does.

    Raises:
        ValueError: not a picture, damaged, more than 8 bits a channel, or transparent; names it.
    """
    return _opened(data, name, lambda image: _pixels(image, drop_alpha))


def check_picture(data: bytes, name: str, drop_alpha: bool = False) -> Channels:
    """The number of channels that `decode_picture` will give, from the picture's header.

    Only a picture with an alpha channel is decoded.

    Raises:
        ValueError: not a picture, more than 8 bits a channel, or transparent; names it.
    """
    return _opened(data, name, lambda image: _checked(image, drop_alpha))


def encode_png(pixels: np.ndarray) -> bytes:
    """A PNG of uint8 [H, W, 1|3]."""
    out = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(out, "PNG")
    return out.getvalue()


def _opened(data: bytes, name: str, use: Callable[[Image.Image], T]) -> T:
    """`use` of the opened picture; whatever is wrong with the picture is one error that names it."""
    try:
        return _used(data, use)
    except UnidentifiedImageError:  # whose own text names a place in memory, another each time
        reason, cause = f"a file of another kind than {', '.join(FORMATS)}", None
    except Image.DecompressionBombError as error:
        reason, cause = f"{error} Make it smaller", error
    except MemoryError:
        raise
    except Exception as error:  # of a damaged picture a decoder may raise anything
        reason, cause = str(error), error
    raise ValueError(
        f"expected an image at {name}, found what cannot be used ({reason}); mend or remove it"
    ) from cause


def _used(data: bytes, use: Callable[[Image.Image], T]) -> T:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if (bits := bits_per_channel(data, image)) > 8:
                raise ValueError(f"{bits} bits, more than 8 bits a channel; convert it to 8 bits")
            return use(image)
    except ValueError as error:
        if "MAX_TEXT" not in str(error):
            raise
    return _used(without_notes(data), use)  # PIL refuses notes of more than a megabyte


def _pixels(image: Image.Image, drop_alpha: bool) -> np.ndarray:
    image.load()
    channels = _checked(image, drop_alpha)
    if image.has_transparency_data:
        image = image.convert("RGBA")
    pixels = np.array(image.convert("L" if channels == 1 else "RGB"))
    return pixels[:, :, None] if channels == 1 else pixels


def _checked(image: Image.Image, drop_alpha: bool) -> Channels:
    if not image.has_transparency_data:
        return 1 if image.mode in ("1", "L") else 3
    if not drop_alpha and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise ValueError(
            "transparent pixels; --drop-alpha (drop_alpha=True) leaves the alpha channel out, as standard "
            "tools do, or draw it over a background"
        )
    return 3

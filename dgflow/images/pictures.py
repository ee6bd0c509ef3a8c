"""Decoding of one picture file to pixels, as PIL and the standard evaluators do: EXIF rotation and colour
profiles are not applied, and the first of several frames is taken.

Transparency has no single meaning (evaluators drop it, viewers draw it over white), so pictures with
transparent pixels are refused unless the alpha channel is to be dropped. A fully opaque alpha channel is
dropped. The format is recognised from the content, whatever the suffix.
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
    """Decodes the picture in these bytes to uint8 [H, W, 3], or [H, W, 1] if it is grey.

    With `drop_alpha` an alpha channel is left out, as `PIL.Image.convert("RGB")` does.

    Raises:
        ValueError: the bytes are not a picture, or the picture is damaged, has more than 8 bits per channel,
            or is transparent; the message names it.
    """
    return _opened(data, name, lambda image: _pixels(image, drop_alpha))


def check_picture(data: bytes, name: str, drop_alpha: bool = False) -> Channels:
    """Returns the number of channels that `decode_picture` will give, from the picture's header.

    Only a picture with an alpha channel is decoded.

    Raises:
        ValueError: the bytes are not a picture, or the picture has more than 8 bits per channel or is
            transparent; the message names it.
    """
    return _opened(data, name, lambda image: _checked(image, drop_alpha))


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 [H, W, 1|3] as a PNG."""
    out = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(out, "PNG")
    return out.getvalue()


def _opened(data: bytes, name: str, use: Callable[[Image.Image], T]) -> T:
    """Calls `use` with the opened picture; any fault of the picture becomes one error that names it."""
    try:
        return _used(data, use)
    except UnidentifiedImageError:  # PIL's own text contains a memory address, which differs each time
        reason, cause = f"a file of another kind than {', '.join(FORMATS)}", None
    except Image.DecompressionBombError as error:
        reason, cause = f"{error} Make it smaller", error
    except MemoryError:
        raise
    except Exception as error:  # decoders can raise anything for a damaged picture
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

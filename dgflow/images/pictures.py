"""Decodes one picture to pixels as PIL and the standard evaluators do: EXIF rotation and colour profiles are
not applied, and only the first of several frames is read.

Transparency has no unique meaning: evaluators drop it, viewers draw the picture over white. Pictures with
transparent pixels are therefore refused unless the caller asks to drop the alpha channel. A fully opaque
alpha channel is always dropped. The format is recognised from the content, not from the suffix.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Literal, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from dgflow.images.bit_depth import bits_per_channel, without_notes

FORMER_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
"""The suffixes that earlier versions listed."""
SUFFIXES = (*FORMER_SUFFIXES, *(".jpe", ".jfif", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm"))
"""The suffixes that clean-fid and pytorch-fid read, and other suffixes of the same formats."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
"""The formats that PIL may open. No other decoder of PIL, and no external program, receives a file."""

Channels = Literal[1, 3]
T = TypeVar("T")


def decode_picture(data: bytes, name: str, drop_alpha: bool = False) -> np.ndarray:
    """Decodes the bytes of a picture to uint8 [H, W, 3], or [H, W, 1] for a grey picture.

    With `drop_alpha` an alpha channel is dropped, as by `PIL.Image.convert("RGB")`.

    Raises:
        ValueError: the bytes are not a picture, or the picture is damaged, has more than 8 bits per channel,
            or is transparent. The message contains `name`.
    """
    return _opened(data, name, lambda image: _pixels(image, drop_alpha))


def check_picture(data: bytes, name: str, drop_alpha: bool = False) -> Channels:
    """Returns the number of channels that `decode_picture` will give, from the picture's header.

    Only a picture with an alpha channel is decoded.

    Raises:
        ValueError: the bytes are not a picture, or the picture has more than 8 bits per channel or is
            transparent. The message contains `name`.
    """
    return _opened(data, name, lambda image: _checked(image, drop_alpha))


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 [H, W, 1|3] as a PNG."""
    out = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(out, "PNG")
    return out.getvalue()


def _opened(data: bytes, name: str, use: Callable[[Image.Image], T]) -> T:
    """Returns `use` of the opened picture. Any fault of the picture becomes a ValueError that names the
    picture."""
    try:
        return _used(data, use)
    except UnidentifiedImageError:  # PIL's own text contains a memory address, which differs each time
        reason, cause = f"a file of another kind than {', '.join(FORMATS)}", None
    except Image.DecompressionBombError as error:
        reason, cause = f"{error} Make the picture smaller", error
    except MemoryError:
        raise
    except Exception as error:  # decoders can raise anything for a damaged picture
        reason, cause = str(error), error
    raise ValueError(
        f"expected an image at {name}, found an unusable file ({reason}); repair or remove it"
    ) from cause


def _used(data: bytes, use: Callable[[Image.Image], T]) -> T:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if (bits := bits_per_channel(data, image)) > 8:
                raise ValueError(f"{bits} bits, more than 8 bits per channel; convert it to 8 bits")
            return use(image)
    except ValueError as error:
        if "MAX_TEXT" not in str(error):
            raise
    return _used(without_notes(data), use)  # PIL refuses text chunks of more than a megabyte


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
            "transparent pixels; drop the alpha channel, as standard tools do, with --drop-alpha "
            "(drop_alpha=True), or draw the picture over a background"
        )
    return 3

"""One picture file as pixels, as PIL decodes it and as the standard evaluators see it: EXIF rotation is not
applied.

Transparency has no one meaning (evaluators drop it, viewers draw it over white), so pictures that have any
are refused; an alpha channel that is opaque everywhere is dropped.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")

_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def decode_picture(data: bytes, name: str) -> np.ndarray:
    """The picture in these bytes, uint8 [H, W, 3], or [H, W, 1] of one that is grey.

    Raises:
        ValueError: not a picture, damaged, more than 8 bits a channel, or transparent; names it.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            pixels = _as_grey_or_rgb(image)
    except UnidentifiedImageError:  # whose own text names a place in memory, another each time
        raise ValueError(
            f"expected an image at {name}, found what cannot be used (a file of another kind); mend or "
            "remove it"
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"expected an image at {name}, found what cannot be used ({error}); mend or remove it"
        ) from error
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def encode_png(pixels: np.ndarray) -> bytes:
    """A PNG of uint8 [H, W, 1|3]."""
    out = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(out, "PNG")
    return out.getvalue()


def _as_grey_or_rgb(image: Image.Image) -> np.ndarray:
    if image.mode in _DEEP:
        raise ValueError(f"mode {image.mode}, more than 8 bits a channel; convert it to 8 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise ValueError("transparent pixels; draw it over a background")
    return np.array(image.convert("L" if image.mode in ("1", "L") else "RGB"))

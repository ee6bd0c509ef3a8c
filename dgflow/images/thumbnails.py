"""Makes thumbnails of images for pages."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

LARGEST = 64
"""Maximum length of an image's longer side in pixels; longer ones are shrunk."""


def shrunk(image_HWC: np.ndarray) -> np.ndarray:
    """Shrinks an image uint8 [H, W, C] to a longer side of at most 64 pixels. Each pixel is the mean of its
    area."""
    side = max(image_HWC.shape[:2])
    if side <= LARGEST:
        return image_HWC
    height, width = (round(length * LARGEST / side) for length in image_HWC.shape[:2])
    small = Image.fromarray(image_HWC.squeeze()).resize((width, height), Image.Resampling.BOX)
    return np.asarray(small).reshape(height, width, -1)


def thumbnail(image_HWC: np.ndarray) -> str:
    """Returns an image uint8 [H, W, C], shrunk, as a PNG file in base64."""
    out = io.BytesIO()
    Image.fromarray(shrunk(image_HWC).squeeze()).save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()

"""Several pictures as one PNG file: rows of eight, each shrunk to at most 64 pixels, with transparent gaps of
one pixel between them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from dgflow.images.thumbnails import shrunk

GRID = 8  # pictures per row
_KEYWORD = "dgflow"


def grid(images_BHWC: np.ndarray, columns: int = GRID) -> np.ndarray:
    """The pictures uint8 [B, H, W, C], of one or three channels, in rows of `columns`: RGBA uint8."""
    small = np.stack([shrunk(image) for image in images_BHWC])
    count, height, width = small.shape[:3]
    rows = -(-count // columns)
    canvas = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, 4), np.uint8)
    for number, image in enumerate(small):
        y, x = number // columns * (height + 1), number % columns * (width + 1)
        canvas[y : y + height, x : x + width, :3] = image
        canvas[y : y + height, x : x + width, 3] = 255
    return canvas


def grid_file(images_BHWC: np.ndarray, about: Mapping[str, Any] | None = None) -> bytes:
    """The pictures uint8 [B, H, W, C], of one or three channels, as a PNG file; `about`, JSON data, is kept
    in it as text."""
    info, out = PngInfo(), io.BytesIO()
    if about is not None:
        height, width = shrunk(images_BHWC[0]).shape[:2]
        size = {"count": len(images_BHWC), "height": height, "width": width}
        info.add_text(_KEYWORD, json.dumps({**about, **size}))
    Image.fromarray(grid(images_BHWC)).save(out, "PNG", optimize=True, pnginfo=info)
    return out.getvalue()


def read_grid(data: bytes) -> tuple[np.ndarray, dict[str, Any]]:
    """The pictures of a file of `grid_file`, uint8 [B, H, W, 3], shrunk as they are there, and its `about`.

    Raises ValueError or OSError for another file.
    """
    with Image.open(io.BytesIO(data), formats=["PNG"]) as file:
        assert isinstance(file, PngImageFile)
        about = json.loads(str(file.text.get(_KEYWORD, "null")))
        canvas = np.asarray(file.convert("RGB"))
    if not isinstance(about, dict) or not {"count", "height", "width"} <= about.keys():
        raise ValueError("expected a grid of pictures with its description, found another PNG file")
    height, width = about["height"], about["width"]
    corners = (
        (number // GRID * (height + 1), number % GRID * (width + 1)) for number in range(about["count"])
    )
    return np.stack([canvas[y : y + height, x : x + width] for y, x in corners]), about

"""Draws several images as a grid in one PNG file: by default in rows of eight, each image shrunk to at most
64 pixels, with transparent gaps of one pixel."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from dgflow.images.thumbnails import shrunk

GRID = 8  # images per row
_KEYWORD = "dgflow"


def grid(images_BHWC: np.ndarray, columns: int = GRID) -> np.ndarray:
    """Returns the grid, RGBA uint8, of images uint8 [B, H, W, C] with one or three channels, in rows of
    `columns`."""
    small = np.stack([shrunk(image) for image in images_BHWC])
    count, height, width = small.shape[:3]
    rows = -(-count // columns)
    canvas = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, 4), np.uint8)
    for number, image in enumerate(small):
        y, x = number // columns * (height + 1), number % columns * (width + 1)
        canvas[y : y + height, x : x + width, :3] = image
        canvas[y : y + height, x : x + width, 3] = 255
    return canvas


def grid_file(images_BHWC: np.ndarray, about: Mapping[str, Any] | None = None, columns: int = GRID) -> bytes:
    """Returns a PNG file of images uint8 [B, H, W, C] with one or three channels, in rows of `columns`.
    `about` is JSON data that is stored in the file as text."""
    info, out = PngInfo(), io.BytesIO()
    if about is not None:
        height, width = shrunk(images_BHWC[0]).shape[:2]
        size = {"count": len(images_BHWC), "height": height, "width": width}
        size |= {} if columns == GRID else {"columns": columns}
        info.add_text(_KEYWORD, json.dumps({**about, **size}))
    Image.fromarray(grid(images_BHWC, columns)).save(out, "PNG", optimize=True, pnginfo=info)
    return out.getvalue()


def read_grid(data: bytes) -> tuple[np.ndarray, dict[str, Any]]:
    """Returns the images of a file that `grid_file` wrote, uint8 [B, H, W, 3], shrunk as in the file, and the
    file's `about`. Raises ValueError or OSError for any other file.
    """
    with Image.open(io.BytesIO(data), formats=["PNG"]) as file:
        assert isinstance(file, PngImageFile)
        about = json.loads(str(file.text.get(_KEYWORD, "null")))
        canvas = np.asarray(file.convert("RGB"))
    if not isinstance(about, dict) or not {"count", "height", "width"} <= about.keys():
        raise ValueError("expected a grid of images with its description, found another PNG file")
    height, width, columns = about["height"], about["width"], about.get("columns", GRID)
    corners = (
        (number // columns * (height + 1), number % columns * (width + 1)) for number in range(about["count"])
    )
    return np.stack([canvas[y : y + height, x : x + width] for y, x in corners]), about

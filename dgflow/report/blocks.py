"""Draws images in a terminal with half-block characters, two pixels per character."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rich.console import Console

LARGEST = 24  # maximum width of an image in characters
FEWEST = 4  # minimum number of images per row
LINES = 24  # maximum number of lines for all rows together
_HALF = "▀"


def draw(images_BHWC: np.ndarray) -> int:
    """Prints as many of the first images, uint8 [B, H, W, C], as fit. Returns the number printed, which is 0
    if standard output is not a colour terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    if not (console.is_terminal and console.color_system and _encodes(sys.stdout.encoding)):
        return 0
    return _drawn(images_BHWC, console)


def _encodes(encoding: str | None) -> bool:
    try:
        _HALF.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _drawn(images_BHWC: np.ndarray, console: Console) -> int:
    from PIL import Image
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    count, height, width, _ = images_BHWC.shape
    columns = max(1, min(width, LARGEST, (console.width + 1) // FEWEST - 1))
    lines = max(1, round(columns * height / width / 2))
    across = min(count, max(1, (console.width + 1) // (columns + 1)))
    shown = min(count, across * max(1, LINES // (lines + 1)))
    small = [
        np.asarray(
            Image.fromarray(image.squeeze()).convert("RGB").resize((columns, 2 * lines), Image.Resampling.BOX)
        )
        for image in images_BHWC[:shown]
    ]
    for first in range(0, shown, across):
        for line in range(lines):
            text = Text(end="\n")
            for number, image in enumerate(small[first : first + across]):
                text.append(" " * bool(number))
                for upper, lower in zip(image[2 * line].tolist(), image[2 * line + 1].tolist(), strict=True):
                    text.append(_HALF, Style(color=Color.from_rgb(*upper), bgcolor=Color.from_rgb(*lower)))
            console.print(text, no_wrap=True, crop=False)
        console.print()
    return shown

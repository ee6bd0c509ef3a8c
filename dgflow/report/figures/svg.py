"""Builds SVG elements as text, and estimates the width of text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Literal, NamedTuple

WIDTH = 356  # width of a figure in user units, each shown as about one pixel, so that text keeps its size
SIZE, NAME_SIZE = 11, 12  # sizes of text and of titles in user units, as in the style sheet
ROW = 16  # distance between two lines of text
NARROW, BROAD = frozenset("fijlrtI.,:;'|!()[] "), frozenset("mwMW@%—")

Anchor = Literal["start", "middle", "end"]


def _ems(character: str) -> float:
    if character in NARROW:
        return 0.37
    return 0.96 if character in BROAD else 0.7 if character.isupper() else 0.63


def text_width(words: str, size: int = SIZE, bold: bool = False) -> float:
    """Returns the approximate width of a text in user units, for DejaVu Sans, which is wider than most
    sans-serif fonts."""
    ems = sum(map(_ems, words))
    return ems * size * (1.12 if bold else 1.0)


def wrapped(words: str, room: float, size: int = SIZE, bold: bool = False) -> list[str]:
    """Returns the text as lines of at most the width `room`. A single wider word is not broken."""
    lines: list[str] = []
    for word in words.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size, bold) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def text(kind: str, x: float, y: float, words: str, anchor: Anchor = "start") -> str:
    where = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text class="{kind}" x="{x:g}" y="{y:g}"{where}>{escape(words)}</text>'


def inside(x: float, words: str, low: float, high: float) -> float:
    """Returns the centre of a text: `x`, moved as far as necessary for the text to lie between `low` and
    `high`."""
    half = text_width(words) / 2
    return round(max(min(x, high - half), low + half), 1)


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"/>'


def ring(x: float, y: float) -> str:
    """Draws a ring around a marker."""
    return f'<circle class="ring" cx="{x:g}" cy="{y:g}" r="6"/>'


class Drawing(NamedTuple):
    """An `<svg>` element and its width in user units."""

    element: str
    width: float


class NothingToDraw(ValueError):
    """Raised for a figure without a visible value."""


def drawing(width: float, height: float, label: str, body: Sequence[str]) -> Drawing:
    """Returns the complete drawing. `label` is read by screen readers. A drawing wider than `WIDTH` keeps its
    size and scrolls."""
    broad = f' class="broad" style="--width: {width:g}px"' if width > WIDTH else ""
    box = f'viewBox="0 0 {width:g} {height:g}"'
    return Drawing(f'<svg {box}{broad} role="img" aria-label="{escape(label)}">{"".join(body)}</svg>', width)


def name(title: str, room: float, y: float = 14) -> tuple[list[str], float]:
    """Returns a figure's title on as many lines as it needs, and the baseline of the last line."""
    lines = wrapped(title, room, NAME_SIZE, bold=True) or [""]
    elements = [text("name", 0, y + ROW * number, words) for number, words in enumerate(lines)]
    return elements, y + ROW * (len(lines) - 1)

"""Draws legends: the names of a figure's curves, each after a sample of the curve's look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dgflow.report.figures.looks import Look
from dgflow.report.figures.svg import ROW, line, ring, text, text_width

SAMPLE, GAP = 24, 14  # width of a sample; distance between two entries


@dataclass(frozen=True)
class Entry:
    label: str
    look: Look | Literal["level", "front"]

    @property
    def width(self) -> float:
        return SAMPLE + text_width(self.label)

    def svg(self, x: float, y: float) -> list[str]:
        if isinstance(self.look, str):
            sample = [line(self.look, x, y - 4, x + 18, y - 4)]
            sample += [ring(x + 9, y - 4)] if self.look == "front" else []
            return [*sample, text("note", x + SAMPLE, y, self.label)]
        sample = [] if self.look.dash is None else [self.look.line(f"{x:g},{y - 4:g} {x + 18:g},{y - 4:g}")]
        return [*sample, self.look.mark(x + 9, y - 4), text("note", x + SAMPLE, y, self.label)]


def tells(title: str, labels: Sequence[str]) -> bool:
    """Returns True if the title names the only item of the figure, which then needs no legend."""
    return len(labels) == 1 and labels[0].lower() in title.lower()


def legend(entries: Sequence[Entry], room: float, beside: float, y: float) -> tuple[list[str], float]:
    """Returns the elements of the entries and the baseline of their last line.

    The line with baseline `y` is occupied up to `beside`. If the entries fit behind that, they are placed at
    the right end of the line, else on lines below it. `room` is the width of a line.
    """
    total = sum(entry.width for entry in entries) + GAP * (len(entries) - 1)
    if total <= room - beside - GAP:
        x, out = room - total, []
    else:
        x, y, out = 0.0, y + ROW, []
    for entry in entries:
        if x > 0 and x + entry.width > room + 0.5:
            x, y = 0.0, y + ROW
        out += entry.svg(round(x, 1), y)
        x += entry.width + GAP
    return out, y

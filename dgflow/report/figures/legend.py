"""Legends: the names of a figure's curves or clouds, each behind a sample of its look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dgflow.report.figures.looks import Look
from dgflow.report.figures.svg import ROW, line, ring, text, text_width

SAMPLE, GAP = 24, 14  # of the look, and between two names


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
    """True for a title that names the only item in its figure, which then needs no legend."""
    return len(labels) == 1 and labels[0].lower() in title.lower()


def legend(entries: Sequence[Entry], room: float, beside: float, y: float) -> tuple[list[str], float]:
    """Returns the entries and the baseline of the last line. The entries are at the right of the line with
    baseline `y`, whose left part up to `beside` is occupied, if they fit there; else in separate lines below
    it."""
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

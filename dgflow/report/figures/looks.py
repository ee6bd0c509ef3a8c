"""The looks of curves: colour, dash and marker. Curves of one figure never differ by colour alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dgflow.specs.figures import Curve

DASHED = "5 2"
_DASHES = ("", DASHED, "9 3 2 3", "2 2", "", DASHED, "9 3 2 3", "2 2")
_MARKERS = (  # around (0, 0)
    "M-2.6 0a2.6 2.6 0 1 0 5.2 0a2.6 2.6 0 1 0 -5.2 0z",  # disc
    "M-2.4 -2.4h4.8v4.8h-4.8z",  # square
    "M0 -3.4l3.2 5.6h-6.4z",  # triangle
    "M0 -3.7l3.1 3.7l-3.1 3.7l-3.1 -3.7z",  # diamond
    "M0 3.4l3.2 -5.6h-6.4z",  # triangle on its tip
    "M-3.4 -.9h2.5v-2.5h1.8v2.5h2.5v1.8h-2.5v2.5h-1.8v-2.5h-2.5z",  # plus
    "M-3.6 -1.4h7.2v2.8h-7.2z",  # bar
    "M-1.4 -3.6h2.8v7.2h-2.8z",  # upright bar
)
LOOKS = len(_MARKERS)  # the number of colours in the style sheet


@dataclass(frozen=True)
class Look:
    """The look of a curve. `colour` is the number of a colour of the style sheet, `dash` is None for points
    without a line, and `marker` is path data around (0, 0)."""

    colour: int
    dash: str | None
    marker: str

    def line(self, points: str) -> str:
        dash = f' stroke-dasharray="{self.dash}"' if self.dash else ""
        return f'<polyline class="line c{self.colour}" points="{points}"{dash}/>'

    def mark(self, x: float, y: float, words: str = "") -> str:
        """Returns a marker. `words` appear on hover and must already be escaped."""
        title = f"<title>{words}</title>" if words else ""
        place = f'transform="translate({x:g} {y:g})"'
        return f'<path class="dot c{self.colour}" {place} d="{self.marker}">{title}</path>'


def looks_of(curves: Sequence[Curve], colours: Sequence[int] = ()) -> list[Look]:
    """Returns the look of each curve.

    If the figure asks for a dashed curve, no other curve is dashed. Without `colours`, all curves of a group
    have the colour of the group.
    """
    meant = any(curve.style == "dashed" for curve in curves)
    groups = list(dict.fromkeys(_group(curve, place) for place, curve in enumerate(curves)))
    looks = []
    for place, curve in enumerate(curves):
        number = (colours[place] if colours else place) % LOOKS
        own = DASHED if curve.style == "dashed" else "" if meant else _DASHES[number]
        colour = number if colours else groups.index(_group(curve, place)) % LOOKS
        marker = _MARKERS[(number + place // LOOKS) % LOOKS]  # another pairing once the colours repeat
        looks.append(Look(colour, None if curve.style == "points" else own, marker))
    return looks


def _group(curve: Curve, place: int) -> str | int:
    """Returns the group of a curve. A curve without a group is its own group."""
    return curve.group or place

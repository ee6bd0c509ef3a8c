"""Draws any figure as an element of the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from markupsafe import Markup

from dgflow.report.figures.heat_map import draw_heat_map
from dgflow.report.figures.lines import draw_lines
from dgflow.report.figures.pictures import draw_pictures
from dgflow.report.figures.plane_plot import draw_plane_plot
from dgflow.report.figures.svg import WIDTH, Drawing, NothingToDraw
from dgflow.report.figures.table import draw_table
from dgflow.specs.figures import Figure, HeatMap, Lines, Pictures, Table


def drawn(figure: Figure, colours: Sequence[int] = ()) -> Markup:
    """Returns a `<figure>` element with the figure's note. `colours` are the numbers of the curves' colours,
    by default in order. A figure without a visible value becomes a caption that says so."""
    caption = f"<figcaption>{escape(figure.note)}</figcaption>" if figure.note else ""
    if isinstance(figure, Table | Pictures):
        title = f"<figcaption><strong>{escape(figure.title)}</strong></figcaption>" if figure.title else ""
        element = draw_table(figure) if isinstance(figure, Table) else draw_pictures(figure)
        return Markup(f'<figure class="full">{title}{element}{caption}</figure>')
    try:
        element, width = _drawing(figure, colours)
    except NothingToDraw:
        return Markup(f"<figure><figcaption>{escape(figure.title)}: no value to show</figcaption></figure>")
    if width <= WIDTH:
        return Markup(f"<figure>{element}{caption}</figure>")
    region = f'<div class="wide" role="region" aria-label="{escape(figure.title)}" tabindex="0">'
    return Markup(f'<figure class="full">{region}{element}</div>{caption}</figure>')


def _drawing(figure: Figure, colours: Sequence[int]) -> Drawing:
    if isinstance(figure, Lines):
        return draw_lines(figure, colours)
    if isinstance(figure, HeatMap):
        return draw_heat_map(figure)
    assert not isinstance(figure, Table | Pictures)
    return draw_plane_plot(figure)

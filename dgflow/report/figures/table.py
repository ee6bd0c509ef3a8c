"""Draws tables as HTML that scroll if they do not fit. Marked rows have a star and stand out."""

from __future__ import annotations

from html import escape

from dgflow.specs.figures import Table

STAR = "*"


def starred(figure: Table) -> list[list[str]]:
    """Returns the heading and the rows. Marked rows without a star get one after their first cell."""
    rows = [list(row) for row in figure.rows]
    for number in figure.marked:
        if not any(STAR in cell for cell in rows[number]):
            rows[number][0] += f" {STAR}"
    return [list(figure.heading), *rows]


def draw_table(figure: Table) -> str:
    heading, *rows = starred(figure)
    label = escape(figure.title or "Table")
    cells = "".join(f'<th scope="col">{escape(cell)}</th>' if cell else "<td></td>" for cell in heading)
    out = [
        f'<div class="wide" role="region" aria-label="{label}, table" tabindex="0"><table class="sortable">'
    ]
    out.append(f"<thead><tr>{cells}</tr></thead><tbody>")
    for number, row in enumerate(rows):
        kind = ' class="chosen"' if number in figure.marked else ""
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        # A reference of a sweep has no settings, and a head must have words.
        head = f'<th scope="row">{escape(row[0])}</th>' if row[0] else "<td></td>"
        out.append(f"<tr{kind}>{head}{cells}</tr>")
    return "".join([*out, "</tbody></table></div>"])

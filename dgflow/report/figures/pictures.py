"""Draws rows of small images, magnified by an integer factor, as a table that scrolls if it does not fit."""

from __future__ import annotations

import base64
from html import escape

from dgflow.specs.figures import Pictures

SHOWN = 64
"""Maximum width of a magnified image in pixels."""


def draw_pictures(figure: Pictures) -> str:
    """Draws the rows. Raises ValueError for an image that is not base64."""
    width = figure.side * max(1, SHOWN // figure.side)
    heading = "".join(f'<th scope="col">{escape(name)}</th>' for name in figure.columns)
    out = [f'<div class="wide" role="region" aria-label="{escape(figure.title)}, pictures" tabindex="0">']
    out.append(f'<table class="pictures"><thead><tr><td></td>{heading}</tr></thead><tbody>')
    for label, pictures in figure.rows:
        cells = "".join(
            f"<td>{_picture(picture, width, f'{label}, {column}')}</td>"
            for column, picture in zip(figure.columns, pictures, strict=True)
        )
        out.append(f'<tr><th scope="row">{escape(label)}</th>{cells}</tr>')
    return "".join([*out, "</tbody></table></div>"])


def _picture(picture: str | None, width: int, words: str) -> str:
    if picture is None:
        return ""
    data = base64.b64encode(base64.b64decode(picture, validate=True)).decode()
    return f'<img src="data:image/png;base64,{data}" width="{width}" alt="{escape(words)}">'

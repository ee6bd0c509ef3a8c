"""Draws figures (`dgflow.specs.figures`) as inline SVG and HTML.

The page's style sheet gives the colours, for its light and its dark scheme. Equal figures give equal text.
The elements fetch nothing and need no script.
"""

"""Figures (`dgflow.specs.figures`) as inline SVG and HTML, coloured by the page's style sheet in its light
and dark schemes. The same figure gives the same text. Nothing is fetched, and nothing runs."""

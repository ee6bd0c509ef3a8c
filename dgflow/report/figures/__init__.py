"""Figures (`dgflow.specs.figures`) as inline SVG and HTML, coloured by the page's style sheet in its light
and dark schemes. Equal figures give equal text. Nothing is fetched, and no script runs."""

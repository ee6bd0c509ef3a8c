"""Cards as tests read them."""

from pathlib import Path

import yaml


def card(folder: Path) -> tuple[dict, str]:
    """Front matter and text of a card."""
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def rows(text: str, heading: str) -> dict[str, dict[str, str]]:
    """The rows of the table of a card whose first heading is `heading`, by their first cell."""
    lines = text[text.index(f"| {heading} |") :].split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("*"): dict(zip(cells[0], row, strict=True)) for row in cells[2:]}

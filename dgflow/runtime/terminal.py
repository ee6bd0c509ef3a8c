"""Wraps text at the width of the terminal, and prints messages on standard error."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import TextIO

WIDTH = 140  # maximum characters per line
PIPED = 110  # characters per line of a table without a terminal
NARROWEST = 60  # characters per line of a table in a narrower terminal
UNLIMITED = 10_000  # characters per line of text without a terminal


def tell(line: str) -> None:
    """Prints a line on standard error, wrapped if it is a terminal."""
    if sys.stderr.isatty():
        width = min(WIDTH, terminal_width(WIDTH, sys.stderr))
        line = "\n".join(wrapped(line, hanging="  ", width=width))
    print(line, file=sys.stderr, flush=True)


def terminal_width(otherwise: int = PIPED, stream: TextIO | None = None) -> int:
    """Returns the width of the terminal on a stream, by default standard output, or `otherwise` if the stream
    is not a terminal.

    $COLUMNS is not used: programs inherit it without having a terminal.
    """
    try:
        columns = os.get_terminal_size((stream or sys.stdout).fileno()).columns
    except (OSError, ValueError):
        return otherwise
    return max(NARROWEST, columns or otherwise)


def wrapped(text: str, indent: str = "", hanging: str = "", width: int | None = None) -> list[str]:
    """Returns the text as printable lines of at most `width` characters, broken between words.

    Args:
        hanging: the additional indent of all lines after the first.
        width: by default the width of the terminal, at most `WIDTH`.
    """
    return textwrap.wrap(
        printable(text),
        width or min(WIDTH, terminal_width(WIDTH)),
        initial_indent=indent,
        subsequent_indent=indent + hanging,
        break_on_hyphens=False,
    )


def printable(text: str) -> str:
    """Returns the text as one line with control characters replaced by spaces, since text from a worker on
    another host must not control the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)

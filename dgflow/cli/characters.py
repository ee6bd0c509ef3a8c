"""Lets a terminal or a file of another encoding than UTF-8 cost characters, and never a finished run."""

import codecs
import io
import sys
import unicodedata

_NAME = "dgflow-degrade"
_PLAIN = {
    "±": "+/-",
    "×": "x",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "…": "...",
    "–": "-",
    "—": "-",
    "−": "-",
    "→": "->",
    "←": "<-",
    "•": "*",
    "·": ".",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "\N{NO-BREAK SPACE}": " ",
}


def degrade() -> None:
    """From now on standard output and standard error write what their encoding lacks by plain characters."""
    codecs.register_error(_NAME, _replaced)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_NAME)


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    """The characters that cannot be encoded, by ones that look alike, else as `\\xe9`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(map(_plain, text)), error.end


def _plain(character: str) -> str:
    if character in _PLAIN:
        return _PLAIN[character]
    if "\u2500" <= character <= "\u257f":  # rules and corners of boxes
        return _box(character)
    if "\u2580" <= character <= "\u259f":  # blocks, of which bars are made
        return "#"
    letters = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return letters or character.encode("ascii", "backslashreplace").decode()


def _box(character: str) -> str:
    name = unicodedata.name(character, "")
    if name.endswith("HORIZONTAL"):
        return "-"
    return "|" if name.endswith("VERTICAL") else "+"

"""Names of files as users see them."""

from __future__ import annotations


def is_shown(name: str) -> bool:
    """True for one of the user's files: not hidden, no folder's marker, not what macOS adds to zips."""
    return not name.endswith("/") and not any(
        part.startswith(".") or part == "__MACOSX" for part in name.split("/")
    )

"""Distinguish users' files from hidden files by name."""

from __future__ import annotations


def is_shown(name: str) -> bool:
    """True for a user's file: not hidden, not a folder marker, not metadata that macOS adds to zips."""
    return not name.endswith("/") and not any(
        part.startswith(".") or part == "__MACOSX" for part in name.split("/")
    )

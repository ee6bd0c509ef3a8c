"""Find the lines of a user's own code behind an error: in a recipe, or in a module beside it."""

from __future__ import annotations

import os
import sysconfig
import traceback
from pathlib import Path

_NAMES = str(Path(__file__).resolve().parents[1] / "__init__.py")  # only resolves public names
_LIBRARIES = (str(Path(__file__).resolve().parents[1]), sysconfig.get_path("stdlib"))


def own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of the error outside all libraries, innermost last."""
    return [
        frame for frame in traceback.extract_tb(error.__traceback__) if not _is_of_a_library(frame.filename)
    ]


def package_frame(error: BaseException) -> traceback.FrameSummary | None:
    """The innermost frame of the error within this package, called by the user's last own line.

    None if the user's line raised the error itself, or through another library (`os.environ["NAME"]`).
    """
    behind: traceback.FrameSummary | None = None
    for frame in traceback.extract_tb(error.__traceback__):
        if not _is_of_a_library(frame.filename):
            behind = None
        elif frame.filename.startswith(_LIBRARIES[0]) and frame.filename != _NAMES:
            behind = frame
    return behind


def shown_path(file: str) -> str:
    """The file's path relative to the current folder if it lies there, otherwise the absolute path."""
    path, here = Path(file).resolve(), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _is_of_a_library(file: str) -> bool:
    return file.startswith((*_LIBRARIES, "<")) or f"{os.sep}site-packages{os.sep}" in file

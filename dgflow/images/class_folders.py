"""Derives the classes of pictures from the folders that hold them. Folders that only number their pictures
are not classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_NUMBER = re.compile(r"[A-Za-z_-]{0,5}(\d{1,18})")
_HEX, _LONG_HEX = re.compile(r"[0-9a-f]{1,3}"), re.compile(r"[0-9a-f]{8,}")
# Folders may group a fixed number of pictures. A folder is named by the number of its first picture (FFHQ:
# 01000/01234.png), or by its own number, of five digits or more (img2dataset: 00012/000120034.jpg).
_STARTS, _COUNTS = (1000, 100, 10_000), (1000, 10_000)
_SHARD = re.compile(r"(?P<before>.*?)[-_.]?(?P<number>\d{4,})(?:-of-\d+)?")
_NO_SHARD = ("class", "label", "categor", "cls")


class FolderClasses(NamedTuple):
    """The classes of pictures.

    Attributes:
        labels: int64 [rows], None if the folders are not classes.
        names: the class names, in the order of the labels.
        note: a remark on folders whose meaning is ambiguous, else "".
    """

    labels: np.ndarray | None
    names: tuple[str, ...] = ()
    note: str = ""


def folder_classes(names: Sequence[str], tars: bool = False) -> FolderClasses:
    """Returns classes from paths. The class of a path is the first sub-folder below the common folder;
    classes are in alphabetical order.

    Folders that number their pictures, folders named by the first digits of hexadecimal file names, and
    consecutively numbered tars are not classes. Deeper folders are ignored.
    """
    parts = [name.split("/")[:-1] for name in names]
    while all(parts) and len({part[0] for part in parts}) == 1:
        parts = [part[1:] for part in parts]
    if not names or not all(parts):
        return FolderClasses(None)
    classes = sorted({part[0] for part in parts})
    if why := _no_classes(classes, parts, names, tars):
        below = folder_classes(["/".join([*part[1:], "0"]) for part in parts])
        shown = f"{classes[0]}, {classes[1]}, ..." if len(classes) > 2 else " and ".join(classes)
        note = f"the {'tars' if tars else 'folders'} {shown} {why} and are not classes"
        return below._replace(note=note)
    label = {name: number for number, name in enumerate(classes)}
    labels = np.array([label[part[0]] for part in parts], np.int64)
    return FolderClasses(labels, tuple(classes), _numbers_note(classes))


def _no_classes(classes: list[str], parts: list[list[str]], names: Sequence[str], tars: bool) -> str:
    """Returns the reason why folders are not classes; "" if they are."""
    if len({len(name) for name in classes}) > 1:
        return ""
    stems = [name.rpartition("/")[2].rpartition(".")[0] for name in names]
    folders = [part[0] for part in parts]
    if all(name.isdecimal() for name in classes) and _number_them(folders, stems):
        return "number their pictures"
    if all(map(_HEX.fullmatch, classes)) and _begin_them(folders, stems):
        return "are the first digits of their pictures' names"
    return "are numbered consecutively" if tars and _are_shards(classes) else ""


def _number_them(folders: list[str], stems: list[str]) -> bool:
    width, matches = len(folders[0]), [_NUMBER.fullmatch(stem) for stem in stems]
    if width < 3 or not all(matches):
        return False
    folder = np.array(folders).astype(np.int64)
    number = np.array([match[1] for match in matches if match]).astype(np.int64)
    return any((number // size * size == folder).all() for size in _STARTS) or (
        width > 4 and any((number // size == folder).all() for size in _COUNTS)
    )


def _begin_them(folders: list[str], stems: list[str]) -> bool:
    """Returns True if the file names (such as hashes) in every folder begin with the folder's name."""
    pairs = zip(folders, stems, strict=True)
    return all(_LONG_HEX.fullmatch(stem) and stem.startswith(folder) for folder, stem in pairs) and any(
        not stem.isdecimal() for stem in stems
    )


def _are_shards(classes: list[str]) -> bool:
    """Returns True for tars such as shard-000000 to shard-000999, with one name and consecutive numbers."""
    matches = [_SHARD.fullmatch(name) for name in classes]
    found = [match for match in matches if match]
    if len(found) < len(classes) or len({match["before"] for match in found}) > 1:
        return False
    if any(word in found[0]["before"].lower() for word in _NO_SHARD):
        return False
    numbers = [int(match["number"]) for match in found]
    return numbers == list(range(numbers[0], numbers[0] + len(numbers))) and numbers[0] < 2


def _numbers_note(classes: list[str]) -> str:
    """Returns a note on folders whose names are numbers with leading zeros, which may be classes or not; else
    ""."""
    plain = all(re.fullmatch(r"(?=.*\d)[0-9a-f]{2,}", name) for name in classes) and classes[0][0] == "0"
    if not plain or len({len(name) for name in classes}) > 1:
        return ""
    return (
        f"the folders {classes[0]} to {classes[-1]} are taken as {len(classes):,} classes; if they are not "
        "classes, leave labels out (--ignore-labels, ignore_labels=True, num_classes=0)"
    )

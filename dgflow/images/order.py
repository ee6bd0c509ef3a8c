"""The order, classes and indices of images, from the names of files or a column of indices.

Samples that carry a number come in the order of their numbers, each exactly once, or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

_SHOWN = 5  # indices that a message names
_STEM = re.compile(r"\d{1,18}")
_STYLEGAN = re.compile(r"img(\d{8})")


def index_order(names: Sequence[str], source: str) -> tuple[np.ndarray, int] | None:
    """The order (int64 [rows]) of picture files by the indices in their paths, and the first index; None
    where the paths are names.

    Indices are `000000/000123.png` (folders of a thousand, as EDM writes them), `00000/img00000123.png` (as
    in the data sets of StyleGAN and EDM), and plain numbers of which at least half are there (fewer: names
    such as COCO's, not indices).

    Raises:
        ValueError: indices that are missing or doubled.
    """
    index = _indices(names)
    return None if index is None else ordered(index, source, names)


def folder_classes(names: Sequence[str]) -> tuple[np.ndarray | None, list[str]]:
    """Labels (int64 [rows]) and class names from paths: the first sub-folder below what all share, in
    alphabetical order. None, [] without any."""
    parts = [name.split("/")[:-1] for name in names]
    while all(parts) and len({part[0] for part in parts}) == 1:
        parts = [part[1:] for part in parts]
    if not all(parts):
        return None, []
    classes = sorted({part[0] for part in parts})
    label = {name: number for number, name in enumerate(classes)}
    return np.array([label[part[0]] for part in parts], np.int64), classes


def ordered(index: np.ndarray, source: str, names: Sequence[str] | None = None) -> tuple[np.ndarray, int]:
    """The order (int64 [rows]) that sorts indices, and the first of them.

    Raises:
        ValueError: not each of first, first + 1, ..., last exactly once; names the first few that are missing
            or doubled.
    """
    order = np.argsort(index, kind="stable")
    steps = np.diff(index[order])
    twice = np.flatnonzero(steps == 0)
    if twice.size:
        where = (
            f", such as {names[int(order[twice[0]])]} and {names[int(order[twice[0] + 1])]}" if names else ""
        )
        raise ValueError(
            f"expected each index once in {source}, found {_shown(index[order[twice]], int(twice.size))} "
            f"more than once{where}; remove those that do not belong to this set"
        )
    if (steps != 1).any():
        missing = [
            number
            for gap in np.flatnonzero(steps > 1)[: _SHOWN + 1]
            for number in range(
                index[order[gap]] + 1, min(int(index[order[gap + 1]]), int(index[order[gap]]) + _SHOWN + 2)
            )
        ]
        first, last = int(index[order[0]]), int(index[order[-1]])
        raise ValueError(
            f"expected every index from {first} to {last} in {source}, found {len(index):,} of "
            f"{last - first + 1:,}: {_shown(missing, last - first + 1 - len(index))} missing; make those, or "
            "give the others names that are no numbers"
        )
    return order, int(index[order[0]])


def _indices(names: Sequence[str]) -> np.ndarray | None:
    """The numbers of files whose names are numbers, None where they are names."""
    if len({name.rpartition("/")[0].rpartition("/")[0] for name in names}) > 1:
        return None  # further folders, above those that could be thousands
    numbers, numbered = [], True
    for name in names:
        folder = name.rpartition("/")[0].rpartition("/")[2]
        stem = name.rpartition("/")[2].rpartition(".")[0]
        if match := _STYLEGAN.fullmatch(stem):
            number, expected = int(match[1]), match[1][:5]
        elif _STEM.fullmatch(stem):
            number = int(stem)
            expected = f"{number // 1000 * 1000:06d}"
        else:
            return None
        numbers.append(number)
        numbered &= folder == expected
    index = np.array(numbers, np.int64)
    one_folder = len({name.rpartition("/")[0] for name in names}) == 1
    mostly_there = 2 * len(index) > index.max() - index.min()
    return index if numbered or (one_folder and mostly_there) else None


def _shown(values: Sequence[int] | np.ndarray, count: int) -> str:
    text = ", ".join(str(int(value)) for value in values[:_SHOWN])
    return f"{text} (and {count - _SHOWN:,} more)" if count > _SHOWN else text

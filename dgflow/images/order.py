"""Order, classes and indices of images, from file names or a column of indices.

Samples with indices are taken in the order of their indices, each exactly once, or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np


class Unordered(ValueError):
    """Raised if the images' indices are not consecutive. For samples, some are missing; for a reference, the
    indices may be those of a larger set.

    Attributes:
        order: int64 [rows], the order in which the images are taken nevertheless.
        note: a remark that is added in that case.
    """

    def __init__(self, message: str, order: np.ndarray, note: str) -> None:
        super().__init__(message)
        self.order, self.note = order, note

    def __reduce__(self) -> tuple[type[Unordered], tuple[str, np.ndarray, str]]:
        return Unordered, (str(self), self.order, self.note)


_SHOWN = 5  # indices in a message
OTHER_INDEX = "the column index is of another data set, leave that column out or give it another name"
_STEM = re.compile(r"\d{1,18}")
_STYLEGAN = re.compile(r"img(\d{8})")


def index_order(names: Sequence[str], source: str) -> tuple[np.ndarray, int] | None:
    """Returns the order (int64 [rows]) of picture files by the indices in their paths, and the first index;
    None if the paths are names.

    Indices are `000000/000123.png` (folders of a thousand, as EDM writes them), `00000/img00000123.png` (as
    in the data sets of StyleGAN and EDM), and plain numbers of which at least half are present (with fewer,
    they are names such as COCO's, not indices).

    Raises:
        Unordered: indices are missing.
        ValueError: indices are duplicated.
    """
    index = _indices(names)
    return None if index is None else ordered(index, source, names)


def ordered(index: np.ndarray, source: str, names: Sequence[str] | None = None) -> tuple[np.ndarray, int]:
    """Returns the order (int64 [rows]) that sorts the indices, and the first index.

    Raises:
        Unordered: some of first, first + 1, ..., last are missing; the message names the first few.
        ValueError: some indices are duplicated.
    """
    order = np.argsort(index, kind="stable")
    steps = np.diff(index[order])
    twice = np.flatnonzero(steps == 0)
    if twice.size:
        doubled = _shown(index[order[twice]], int(twice.size))
        one, other = int(order[twice[0]]), int(order[twice[0] + 1])
        such = f", such as {names[one]} and {names[other]}" if names else ""
        raise ValueError(
            f"expected each index once in {source}, found {doubled} more than once{such}; remove those that "
            "do not belong to this set"
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
        remedy = "give the others names that are no numbers" if names else "number the rows anew"
        count = last - first + 1 - len(index)
        lost = _shown(missing, count)
        raise Unordered(
            f"expected every index from {first} to {last} in {source}, found {len(index):,} of "
            f"{last - first + 1:,}: {lost} missing; make those, or {remedy}",
            order,
            f"{count:,} of the numbers {first} to {last} are missing ({lost}): taken as part of a larger set",
        )
    return order, int(index[order[0]])


def _indices(names: Sequence[str]) -> np.ndarray | None:
    """Returns the numbers of files whose names are numbers, None if the names are not."""
    if len({name.rpartition("/")[0].rpartition("/")[0] for name in names}) > 1:
        return None  # more folders, above those that could group a thousand files
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

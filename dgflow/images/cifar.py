"""CIFAR-10 and CIFAR-100 as their authors publish them: pickles or plain bytes, in an archive or unpacked.
The training batches.

Promises uint8 [50,000, 32, 32, 3] of the whole set in the order of the batches, and CIFAR-100's fine labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dgflow.images.cifar_pickle import load_batch

_PIXELS = 3 * 32 * 32


class _Form(NamedTuple):
    batches: tuple[str, ...]
    mark: str  # a file that lies beside them
    label: str | int  # the key of the labels, or the bytes before a picture, of which the last is its label
    classes: int


_FORMS = (
    _Form(tuple(f"data_batch_{number}" for number in range(1, 6)), "batches.meta", "labels", 10),
    _Form(tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "batches.meta.txt", 1, 10),
    _Form(("train",), "meta", "fine_labels", 100),
    _Form(("train.bin",), "fine_label_names.txt", 2, 100),
)


class Batches(NamedTuple):
    """The files of the training batches, in order."""

    names: tuple[str, ...]
    form: _Form


def find_batches(names: Sequence[str], source: str) -> Batches | None:
    """The training batches among paths; None where there are none.

    Raises ValueError where some are missing.
    """
    for form in _FORMS:
        marked = [name for name in names if name.rpartition("/")[2] == form.mark]
        if not marked:
            continue
        folder = marked[0].removesuffix(form.mark)
        missing = [batch for batch in form.batches if f"{folder}{batch}" not in names]
        if missing:
            raise ValueError(
                f"expected CIFAR's {', '.join(form.batches)} in {source}, found no {missing[0]}; fetch the "
                "archive again"
            )
        return Batches(tuple(f"{folder}{batch}" for batch in form.batches), form)
    return None


def read_batches(
    batches: Batches, read: Callable[[str], bytes], source: str
) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 [N, 32, 32, 3], and labels, int64 [N]; `read` gives the bytes of a file.

    Raises:
        ValueError: a batch that is damaged or of another form.
    """
    images, labels = [], []
    for name in batches.names:
        data, where = read(name), f"{source}: {name}"
        pixels, label = (
            _binary(data, batches.form, where)
            if isinstance(batches.form.label, int)
            else _python(data, batches.form, where)
        )
        if len(label) and not 0 <= label.min() <= label.max() < batches.form.classes:
            raise ValueError(
                f"expected labels 0 to {batches.form.classes - 1} in {where}, found {label.min()} to "
                f"{label.max()}"
            )
        images.append(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels.append(label)
    return np.ascontiguousarray(np.concatenate(images)), np.concatenate(labels)


def _python(data: bytes, form: _Form, where: str) -> tuple[np.ndarray, np.ndarray]:
    found = load_batch(data, where)
    pixels, labels = found.get("data"), found.get(str(form.label))
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != _PIXELS:
        raise ValueError(
            f"expected `data` of uint8 [N, {_PIXELS:,}] in {where}, found "
            f"{getattr(pixels, 'shape', type(pixels).__name__)}"
        )
    if (
        not isinstance(labels, list)
        or len(labels) != len(pixels)
        or not all(type(label) is int for label in labels)
    ):
        raise ValueError(f"expected `{form.label}` of {len(pixels):,} whole numbers in {where}, found others")
    return pixels, np.array(labels, np.int64)


def _binary(data: bytes, form: _Form, where: str) -> tuple[np.ndarray, np.ndarray]:
    before = int(form.label)
    if not data or len(data) % (before + _PIXELS):
        raise ValueError(
            f"expected records of {before + _PIXELS:,} bytes in {where}, found {len(data):,} bytes, which is "
            "no whole number of them; fetch the archive again"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, before + _PIXELS)
    return records[:, before:], records[:, before - 1].astype(np.int64)

"""Reads the training batches of CIFAR-10 and CIFAR-100 in their published forms: pickles or plain bytes."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dgflow.files.inert_pickle import Record, Refused, load_records

_PIXELS = 3 * 32 * 32
_GLOBALS = ("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype")


class _Form(NamedTuple):
    batches: tuple[str, ...]
    mark: str  # a file beside the batches, by which the form is recognised
    label: str | int  # key of the labels, or number of bytes before an image, of which the last is the label
    classes: int


_FORMS = (
    _Form(tuple(f"data_batch_{number}" for number in range(1, 6)), "batches.meta", "labels", 10),
    _Form(tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "batches.meta.txt", 1, 10),
    _Form(("train",), "meta", "fine_labels", 100),
    _Form(("train.bin",), "fine_label_names.txt", 2, 100),
)


class CifarBatches(NamedTuple):
    """The files of the training batches, in order."""

    names: tuple[str, ...]
    form: _Form


def find_batches(names: Sequence[str], source: str) -> CifarBatches | None:
    """Returns the training batches among the paths, None if there are none.

    Raises ValueError if some of the batches are missing.
    """
    for form in _FORMS:
        marked = [name for name in names if name.rpartition("/")[2] == form.mark]
        if not marked:
            continue
        folder = marked[0].removesuffix(form.mark)
        missing = [batch for batch in form.batches if f"{folder}{batch}" not in names]
        if len(missing) == len(form.batches):  # an unrelated file of that name
            continue
        if missing:
            raise ValueError(
                f"expected CIFAR's {', '.join(form.batches)} in {source}, but {missing[0]} is missing; "
                "download the archive again"
            )
        return CifarBatches(tuple(f"{folder}{batch}" for batch in form.batches), form)
    return None


def read_batches(
    batches: CifarBatches, read: Callable[[str], bytes], source: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns images, uint8 [N, 32, 32, 3], and labels (CIFAR-100's fine ones), int64 [N], in the order of
    the batches. `read` returns the bytes of a file.

    Raises:
        ValueError: a batch is damaged or has another form.
    """
    images, labels = [], []
    for name in batches.names:
        parse = _binary if isinstance(batches.form.label, int) else _python
        where = f"{source}: {name}"
        pixels, label = parse(read(name), batches.form, where)
        if len(label) and not 0 <= label.min() <= label.max() < batches.form.classes:
            raise ValueError(
                f"expected labels 0 to {batches.form.classes - 1} in {where}, found {label.min()} to "
                f"{label.max()}"
            )
        images.append(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels.append(label)
    return np.ascontiguousarray(np.concatenate(images)), np.concatenate(labels)


def _python(data: bytes, form: _Form, where: str) -> tuple[np.ndarray, np.ndarray]:
    batch = load_batch(data, where)
    pixels, labels = batch.get("data"), batch.get(str(form.label))
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
            "not a whole number of records; download the archive again"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, before + _PIXELS)
    return records[:, before:], records[:, before - 1].astype(np.int64)


def load_batch(data: bytes, where: str) -> dict[str, Any]:
    """Returns the dictionary in the pickle of a batch: uint8 arrays as numpy arrays, strings as bytes, other
    values unchanged.

    Raises:
        ValueError: the pickle holds no dictionary, names other globals, or holds arrays that are incomplete
            or not uint8.
    """
    try:
        batch = load_records(io.BytesIO(data), len(data), _GLOBALS, encoding="bytes")
        if not isinstance(batch, dict):
            raise pickle.UnpicklingError(f"it holds a {type(batch).__name__}, not a dictionary")
        return {
            key.decode() if isinstance(key, bytes) else str(key): _array(value)
            for key, value in batch.items()
        }
    except Exception as error:  # a damaged pickle can raise anything
        reason = (
            f"it names {error}, but only {', '.join(_GLOBALS)} are allowed: it is not CIFAR's, do not open it"
            if isinstance(error, Refused)
            else error
        )
        raise ValueError(
            f"expected a batch of CIFAR at {where}, found an unusable file ({reason}); download the archive "
            "again"
        ) from error


def _array(value: Any) -> Any:
    """Converts the pickled record of an array to the array. Returns any other value unchanged."""
    if not isinstance(value, Record):
        return value
    _version, shape, dtype, fortran, data = value.state
    if not isinstance(dtype, Record) or dtype.args[0] not in (b"u1", "u1") or fortran:
        raise pickle.UnpicklingError("an array that is not of uint8 in C order")
    if not isinstance(data, bytes) or math.prod(shape) != len(data):
        raise pickle.UnpicklingError(f"an array of shape {shape} with another number of bytes")
    return np.frombuffer(data, np.uint8).reshape(shape)

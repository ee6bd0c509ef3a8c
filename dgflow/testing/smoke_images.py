"""Small real pictures for a smoke run: crops of the photograph that matplotlib ships, in the form of the data
set that they stand for.

Promises the same files for the same description, each as large as the recipe's preparation needs it, and a
class for every class of the data set. Reading them is `dgflow.images`' business, as with any others.
"""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dgflow.specs.spec import Spec
from dgflow.store.identity import canonical_json, sha256_hex

if TYPE_CHECKING:
    from PIL.Image import Image

PHOTOGRAPH = "grace_hopper.jpg"
CIFAR_SIDE = 32
CIFAR = {
    "cifar-10-python.tar.gz": 10,
    "cifar-10-binary.tar.gz": 10,
    "cifar-100-python.tar.gz": 100,
    "cifar-100-binary.tar.gz": 100,
}
"""The archives by name, and their classes."""


class Pictures(Spec):
    """A data set to be made: `count` pictures of `width` x `height`, picture i of class i modulo `classes`
    (0: it has none)."""

    form: Literal["folder", "zip", "cifar", "npz"]
    name: str  # of the file; of a folder, any
    count: int
    classes: int
    width: int
    height: int
    channels: int = 3
    codec: Literal["png", "jpeg"] = "png"

    @property
    def key(self) -> str:
        """Where it lies in a root: the file, or the folder."""
        digest = sha256_hex(canonical_json(self.model_dump()).encode())
        return f"smoke/{digest[:12]}/{self.name}"

    def files(self) -> Iterator[tuple[str, bytes]]:
        """(key, bytes) of every file."""
        if self.form == "folder":
            yield from ((f"{self.key}/{name}", data) for name, data in self._named())
        else:
            make = {"zip": self._zip, "cifar": self._cifar, "npz": self._npz}[self.form]
            yield self.key, make()

    def pixels(self) -> Iterator[np.ndarray]:
        """uint8 [height, width, channels], one after another."""
        for image in self._pictures():
            array = np.array(image)
            yield array[:, :, None] if self.channels == 1 else array

    def _pictures(self) -> Iterator[Image]:
        """Crops at random places and of random extent, every other one mirrored."""
        from matplotlib import get_data_path
        from PIL import Image, ImageOps

        with Image.open(Path(get_data_path()) / "sample_data" / PHOTOGRAPH) as opened:
            photograph = opened.convert("L" if self.channels == 1 else "RGB")
        # Philox's raw bits are fixed by its definition, so the pictures are the same with every version of
        # numpy.
        draws = np.random.Philox(0).random_raw(3 * self.count).reshape(-1, 3) / 2.0**64
        for number, (extent, left, top) in enumerate(draws.tolist()):
            scale = min(photograph.width / self.width, photograph.height / self.height) * (
                0.25 + 0.75 * extent
            )
            width, height = scale * self.width, scale * self.height
            left, top = left * (photograph.width - width), top * (photograph.height - height)
            crop = photograph.resize(
                (self.width, self.height), Image.Resampling.BILINEAR, (left, top, left + width, top + height)
            )
            yield ImageOps.mirror(crop) if number % 2 else crop

    def _named(self) -> Iterator[tuple[str, bytes]]:
        suffix = {"png": "png", "jpeg": "jpg"}[self.codec]
        for number, image in enumerate(self._pictures()):
            folder = f"class-{number % self.classes:04d}/" if self.classes else ""
            file = io.BytesIO()
            image.save(file, self.codec, **({"quality": 92} if self.codec == "jpeg" else {}))
            yield f"{folder}{number:06d}.{suffix}", file.getvalue()

    def _zip(self) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, data in self._named():
                archive.writestr(zipfile.ZipInfo(name), data)  # whose date is fixed
        return file.getvalue()

    def _npz(self) -> bytes:
        file = io.BytesIO()
        labels = np.arange(self.count) % max(1, self.classes)
        np.savez(file, image=np.stack(list(self.pixels())), label=labels.astype(np.int64))
        return file.getvalue()

    def _cifar(self) -> bytes:
        """The training batches of one of `CIFAR`'s archives; a row is the red, the green and the blue plane."""
        rows = np.stack([image.transpose(2, 0, 1).reshape(-1) for image in self.pixels()])
        labels = np.arange(self.count) % CIFAR[self.name]
        hundred = CIFAR[self.name] == 100
        parts = np.array_split(np.arange(self.count), 1 if hundred else 5)
        batches = ["train"] if hundred else [f"data_batch_{number}" for number in range(1, 6)]
        python = "python" in self.name
        make = _python_batch if python else _binary_batch
        files = {
            batch if python else f"{batch}.bin": make(rows[items], labels[items], hundred)
            for batch, items in zip(batches, parts, strict=True)
        }
        if python:
            folder = "cifar-100-python" if hundred else "cifar-10-batches-py"
            files["meta" if hundred else "batches.meta"] = _pickled({b"num_vis": rows.shape[1]})
        else:
            folder = "cifar-100-binary" if hundred else "cifar-10-batches-bin"
            files["fine_label_names.txt" if hundred else "batches.meta.txt"] = b"\n"
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(f"{folder}/{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return file.getvalue()


def _binary_batch(rows: np.ndarray, labels: np.ndarray, hundred: bool) -> bytes:
    """Records of label and pixels; CIFAR-100's begin with the coarse one."""
    columns = [labels // 5, labels] if hundred else [labels]
    return np.concatenate([np.stack(columns, axis=1).astype(np.uint8), rows], axis=1).tobytes()


def _python_batch(rows: np.ndarray, labels: np.ndarray, hundred: bool) -> bytes:
    found: dict[bytes, object] = {b"data": rows, b"batch_label": b"made for a smoke run"}
    fine = labels.tolist()
    return _pickled(
        found
        | (
            {b"fine_labels": fine, b"coarse_labels": [label // 5 for label in fine]}
            if hundred
            else {b"labels": fine}
        )
    )


_Pickler: Any = vars(pickle)["_Pickler"]  # in Python: the one in C cannot be told how to write bytes


class _Python2(_Pickler):
    """Writes bytes as the strings of Python 2."""

    dispatch = dict(_Pickler.dispatch)

    def save_bytes(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes


def _pickled(value: object) -> bytes:
    """As Python 2 and the numpy of 2009 pickled it."""
    file = io.BytesIO()
    _Python2(file, protocol=2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")

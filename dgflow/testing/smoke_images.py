"""Make small pictures for a smoke run: crops of one synthetic picture, in the format of the data set that
they replace.

The same description gives the same files. Each picture has the size that the recipe's preparation needs, and
every class of the data set has pictures.
"""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from dgflow.specs.spec import Spec
from dgflow.store.identity import canonical_json, sha256_hex

CIFAR_SIDE = 32
CIFAR = {
    "cifar-10-python.tar.gz": 10,
    "cifar-10-binary.tar.gz": 10,
    "cifar-100-python.tar.gz": 100,
    "cifar-100-binary.tar.gz": 100,
}
"""Name of an archive -> its number of classes."""


class Pictures(Spec):
    """A data set to make: `count` pictures of `width` x `height`. Picture i has class i modulo `classes`; 0
    for a data set without classes.
    """

    form: Literal["folder", "zip", "cifar", "npz"]
    name: str  # name of the file; for a folder, any name
    count: int
    classes: int
    width: int
    height: int
    channels: int = 3
    codec: Literal["png", "jpeg"] = "png"
    series: int = 0  # distinguishes otherwise equal data sets

    @property
    def key(self) -> str:
        """The key of the file, or of the folder, in a root."""
        plain = self.model_dump(exclude=None if self.series else {"series"})
        digest = sha256_hex(canonical_json(plain).encode())
        return f"smoke/{digest[:12]}/{self.name}"

    def like(self, other: Pictures) -> bool:
        """True for pictures that differ at most in number and series."""
        return self.model_copy(update={"count": other.count, "series": other.series}) == other

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yield (key, bytes) of every file."""
        if self.form == "folder":
            yield from ((f"{self.key}/{name}", data) for name, data in self._named())
        else:
            make = {"zip": self._zip, "cifar": self._cifar, "npz": self._npz}[self.form]
            yield self.key, make()

    def pixels(self) -> Iterator[np.ndarray]:
        """Yield the pictures, uint8 [height, width, channels]."""
        for image in self._pictures():
            array = np.array(image)
            yield array[:, :, None] if self.channels == 1 else array

    def _pictures(self) -> Iterator[Image.Image]:
        """Yield crops of random position and size, every second one mirrored."""
        scene = _scene().convert("L" if self.channels == 1 else "RGB")
        largest = min(scene.width / self.width, scene.height / self.height)
        draws = _bits(self.series, 3 * self.count).reshape(-1, 3) / 2.0**64
        for number, (extent, left, top) in enumerate(draws.tolist()):
            scale = largest * (0.25 + 0.75 * extent)
            width, height = scale * self.width, scale * self.height
            left, top = left * (scene.width - width), top * (scene.height - height)
            box = (left, top, left + width, top + height)
            crop = scene.resize((self.width, self.height), Image.Resampling.BILINEAR, box)
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
                archive.writestr(zipfile.ZipInfo(name), data)  # ZipInfo's date is fixed
        return file.getvalue()

    def _npz(self) -> bytes:
        file = io.BytesIO()
        labels = np.arange(self.count) % max(1, self.classes)
        np.savez(file, image=np.stack(list(self.pixels())), label=labels.astype(np.int64))
        return file.getvalue()

    def _cifar(self) -> bytes:
        """Encode one of `CIFAR`'s archives with its training batches; a row has the red, green and blue
        planes.
        """
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


def _bits(seed: int, count: int) -> np.ndarray:
    """Random bits, uint64 [count]. Philox's raw bits are the same in every version of numpy."""
    return np.random.Philox(seed).random_raw(count)


@cache
def _scene() -> Image.Image:
    """Draw a picture with shapes, shades and grain. It uses only integers, so it is the same on every
    machine.
    """
    size = (512, 600)
    pixels = np.zeros((size[1], size[0], 3), np.int64)
    for seed, (cells, weight) in enumerate({3: 6, 12: 4, 48: 3, 192: 2, 512: 1}.items(), start=1):
        lattice = (_bits(seed, cells * cells * 3) >> np.uint64(56)).astype(np.uint8).reshape(cells, cells, 3)
        smooth = Image.fromarray(lattice).resize(size, Image.Resampling.BICUBIC)
        pixels += weight * np.asarray(smooth, np.int64)
    shades = Image.fromarray((pixels // 16).astype(np.uint8))
    mask = Image.new("L", size)
    pen = ImageDraw.Draw(mask)
    for x, y, radius, form in (_bits(99, 4 * 24).reshape(-1, 4) % np.uint64(500)).tolist():
        box = (x, y, x + 10 + radius // 4, y + 10 + radius // 5)
        (pen.ellipse if form % 2 else pen.rectangle)(box, fill=96 + form // 4)
    return Image.composite(ImageOps.invert(shades), shades, mask)


def _binary_batch(rows: np.ndarray, labels: np.ndarray, hundred: bool) -> bytes:
    """Records of label and pixels; CIFAR-100's begin with the coarse label."""
    columns = [labels // 5, labels] if hundred else [labels]
    return np.concatenate([np.stack(columns, axis=1).astype(np.uint8), rows], axis=1).tobytes()


def _python_batch(rows: np.ndarray, labels: np.ndarray, hundred: bool) -> bytes:
    batch: dict[bytes, object] = {b"data": rows, b"batch_label": b"made for a smoke run"}
    fine = labels.tolist()
    if hundred:
        return _pickled(batch | {b"fine_labels": fine, b"coarse_labels": [label // 5 for label in fine]})
    return _pickled(batch | {b"labels": fine})


_Pickler: Any = vars(pickle)["_Pickler"]  # the pickler in Python; the C one writes bytes in a fixed way


class _Python2(_Pickler):
    """A pickler that writes bytes as Python 2 strings."""

    dispatch = dict(_Pickler.dispatch)

    def save_bytes(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes


def _pickled(value: object) -> bytes:
    """Pickle a value like Python 2 with the numpy of 2009."""
    file = io.BytesIO()
    _Python2(file, protocol=2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")

"""Finds and reads the images and labels among the arrays of an npz."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from dgflow.files.locations import Location
from dgflow.files.npz import Header, NpzFile
from dgflow.images.labels import Classes, Labelled, left_out, taken
from dgflow.store.identity import fingerprint

IMAGE_NAMES = ("arr_0", "samples", "image")
"""Names of the array of images: OpenAI's, a common one, and dgflow's own."""

_MOST_BYTES = 2**30  # maximum size of labels, which are read in full
_LABEL_NAMES = {"arr_0": ("arr_1",), "samples": ("label", "labels"), "image": ("label", "labels")}


class NpzImages:
    """The uint8 images [rows, H, W, C] or [rows, H, W] of an npz. `shape` always has four dimensions."""

    def __init__(self, source: str, location: Location) -> None:
        """Reads the header. Raises ValueError if the npz holds no images, or images in another form."""
        self._npz = NpzFile(source, location)
        names = self._npz.names
        found = [name for name in IMAGE_NAMES if name in names]
        if len(found) != 1:
            raise ValueError(
                f"expected one array of images ({', '.join(IMAGE_NAMES)}) in {source}, found the arrays "
                f"{sorted(names)}"
            )
        self._name = found[0]
        self._header = self._npz.header(self._name)
        self.shape = _image_shape(self._header, f"{self._name} of {source}")
        self.size = self._npz.size

    @property
    def digest(self) -> str:
        """The digest of the checksums in the zip directory of the file. No values are read."""
        return fingerprint(self._npz.checksums())

    def labels(self, labelled: Labelled = True) -> Classes:
        """Returns the classes, which are empty without an array of labels. Raises ValueError as
        `labels.taken` does."""
        name = next((name for name in _LABEL_NAMES[self._name] if name in self._npz.names), None)
        if name is None:
            return Classes(None)
        where = f"{name} of {self._npz.source}"
        try:
            header = self._npz.header(name)
            if math.prod(header.shape) * header.dtype.itemsize > _MOST_BYTES:
                raise ValueError(f"expected labels in {where}, found {header.dtype} of shape {header.shape}")
        except ValueError as error:
            if labelled != "optional":
                raise
            return left_out(str(error))
        return taken(self._npz.array(name), self.shape[0], where, labelled)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Reads rows [start, stop), uint8 [rows, H, W, C]."""
        images = np.empty((stop - start, *self.shape[1:]), np.uint8)
        self._npz.fill(self._name, self._header.offset + start * math.prod(self.shape[1:]), images)
        return images

    def blocks(self) -> Iterator[bytes]:
        """Yields the bytes of all rows in blocks. The checksum is verified with the last block."""
        return self._npz.blocks(self._name, self._header)


def _image_shape(header: Header, where: str) -> tuple[int, int, int, int]:
    """Returns [rows, H, W, C] of uint8 images in C order."""
    shape, dtype = header.shape, header.dtype
    if dtype != np.uint8:
        remedy = (
            "scale them to 0 to 255, round as your sampler's authors do, and save uint8"
            if dtype.kind == "f"
            else "save them as uint8"
        )
        raise ValueError(f"expected uint8 images in {where}, found {dtype}; {remedy}")
    if len(shape) == 3:
        shape = (*shape, 1)
    if len(shape) != 4 or shape[3] not in (1, 3) or not all(shape):
        remedy = "; put the channels last" if len(shape) == 4 and shape[1] in (1, 3) else ""
        if len(shape) == 4 and shape[3] == 4 and not remedy:
            remedy = "; to drop an alpha channel, save images[..., :3]"
        raise ValueError(
            f"expected images of shape (rows, height, width, 1 or 3) in {where}, found {header.shape}{remedy}"
        )
    if header.fortran and len(header.shape) > 1:
        raise ValueError(
            f"expected rows one after another in {where}, found Fortran order; save "
            "numpy.ascontiguousarray of it"
        )
    return shape  # pyright: ignore[reportReturnType] (four of them, as was checked)

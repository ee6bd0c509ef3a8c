"""Numpy's npz: members by name, arrays of images by ranges of rows.

Promises flat memory: rows of a member that is not compressed are read where they lie, of one that is as a
    stream (rows in order are cheap,
going back starts anew). Nothing is unpickled. A member's checksum is verified where it is read whole
    (`digest`, labels, statistics).
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from functools import cached_property
from typing import IO, Any, NamedTuple

import numpy as np

from dgflow.images.digests import pixels_sha256
from dgflow.images.listing import Listing
from dgflow.images.places import Place
from dgflow.store.identity import fingerprint

IMAGE_NAMES = ("arr_0", "samples", "image")
"""OpenAI's, another that is used, and dgflow's own."""

_LABEL_NAMES = {"arr_0": ("arr_1",), "samples": ("label", "labels"), "image": ("label", "labels")}
_BLOCK = 16 * 2**20  # bytes that are held while a digest is made
_LOCAL_HEADER = struct.Struct(
    "<26xHH"
)  # of a zip member: the lengths of its name and its extra field end the fixed part


class Header(NamedTuple):
    """What the npy header of a member says."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int  # bytes from the member's start to the values
    fortran: bool


class NpzFile:
    """The members of an npz. Opened when they are first read."""

    def __init__(self, source: str, place: Place) -> None:
        self.source = source
        self._place = place

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in vars(self).items()
            if name not in ("_file", "_archive", "_streams", "_starts")
        }

    @cached_property
    def _file(self) -> io.BufferedReader:
        return self._place.open()

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self._file)
        except zipfile.BadZipFile as error:
            raise ValueError(
                f"expected an npz at {self.source}, found another file or one that is cut short ({error})"
            ) from error

    @cached_property
    def _streams(self) -> dict[str, IO[bytes]]:
        return {}

    @cached_property
    def _starts(self) -> dict[str, int]:
        return {}

    @property
    def names(self) -> list[str]:
        """Names of the arrays, as in the file."""
        return [name.removesuffix(".npy") for name in self._archive.namelist() if name.endswith(".npy")]

    def checksums(self) -> dict[str, int]:
        """CRC-32 of the arrays, as the directory has them: nothing is read."""
        return {entry.filename: entry.CRC for entry in self._archive.infolist()}

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._file.seek(0, 2)

    def header(self, name: str) -> Header:
        """Raises ValueError for a member that is no array of numbers, or not of the size that its header
        says."""
        member = self._archive.getinfo(f"{name}.npy")
        try:
            with self._archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                read = (
                    np.lib.format.read_array_header_1_0
                    if version == (1, 0)
                    else np.lib.format.read_array_header_2_0
                )
                shape, fortran, dtype = read(stream)
                offset = stream.tell()
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise _damaged(name, self.source, error) from error
        except (ValueError, NotImplementedError) as error:
            raise ValueError(
                f"expected an array {name} in {self.source}, found a member that is none ({error})"
            ) from error
        if dtype.hasobject:
            raise ValueError(
                f"expected an array of numbers {name} in {self.source}, found Python objects, which are "
                "not opened: allow_pickle"
            )
        if offset + math.prod(shape) * dtype.itemsize != member.file_size:
            raise ValueError(
                f"expected {shape} values of {dtype} in {name} of {self.source}, found "
                f"{member.file_size - offset:,} bytes"
            )
        return Header(shape, dtype, offset, fortran)

    def array(self, name: str) -> np.ndarray:
        """A whole array; its checksum is verified."""
        header = self.header(name)
        data = bytearray(math.prod(header.shape) * header.dtype.itemsize)
        position = 0
        for block in self.blocks(name, header):
            data[position : position + len(block)] = block
            position += len(block)
        return np.frombuffer(data, header.dtype).reshape(header.shape, order="F" if header.fortran else "C")

    def blocks(self, name: str, header: Header) -> Iterator[bytes]:
        """The bytes of the values, in blocks; the checksum is verified with the last one."""
        try:
            with self._archive.open(f"{name}.npy") as stream:
                stream.read(header.offset)
                while block := stream.read(_BLOCK):
                    yield block
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise _damaged(name, self.source, error) from error

    def fill(self, name: str, offset: int, out: np.ndarray) -> None:
        """Read `out.nbytes` bytes into `out` (C order), from `offset` bytes behind the member's start."""
        member = self._archive.getinfo(f"{name}.npy")
        if member.compress_type == zipfile.ZIP_STORED:
            stream, position = self._file, self._start(member) + offset
        else:
            stream, position = self._streams.get(name), offset
            if stream is None:
                stream = self._streams[name] = self._archive.open(member)
        try:
            stream.seek(position)
            count = stream.readinto(out.reshape(-1).data)  # type: ignore[attr-defined]
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            self._streams.pop(name, None)
            raise _damaged(name, self.source, error) from error
        if count != out.nbytes:
            raise ValueError(
                f"expected a whole array {name} in {self.source}, found one that is cut short; fetch or "
                "make that file again"
            )

    def _start(self, member: zipfile.ZipInfo) -> int:
        """Where a member's data begins: its own header's name and extra field may be longer than those of the
        directory."""
        if member.filename not in self._starts:
            self._file.seek(member.header_offset)
            name, extra = _LOCAL_HEADER.unpack(self._file.read(_LOCAL_HEADER.size))
            self._starts[member.filename] = member.header_offset + _LOCAL_HEADER.size + name + extra
        return self._starts[member.filename]


class NpzImages:
    """uint8 images [rows, H, W, C] or [rows, H, W] of an npz."""

    seed: int | None = None
    seeding: None = None
    first_index: int | None = None

    def __init__(self, source: str, place: Place, labelled: bool = True) -> None:
        """Reads the header and the labels, if wanted.

        Raises ValueError where there are no images, or images of another form.
        """
        self.source = source
        self._npz = NpzFile(source, place)
        names = self._npz.names
        found = [name for name in IMAGE_NAMES if name in names]
        if len(found) != 1:
            raise ValueError(
                f"expected one array of images ({', '.join(IMAGE_NAMES)}) in {source}, found the arrays "
                f"{sorted(names)}"
            )
        self._name = found[0]
        self._header = header = self._npz.header(self._name)
        self._shape = _image_shape(header, f"{self._name} of {source}")
        self.rows = self._shape[0]
        label = next((name for name in _LABEL_NAMES[self._name] if name in names), None) if labelled else None
        self.labels = (
            None if label is None else as_labels(self._npz.array(label), self.rows, f"{label} of {source}")
        )

    def listing(self) -> Listing:
        """For an import."""
        return Listing(
            "npz", self.rows, (("", self._npz.size),), labels=self.labels, digest=self.listed_digest
        )

    @property
    def listed_digest(self) -> str:
        """Of the checksums in the file's directory: no values are read."""
        return fingerprint(self._npz.checksums())

    @property
    def digest(self) -> str:
        """Of pixels and labels; reads the whole file once."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return pixels_sha256(self._npz.blocks(self._name, self._header), self._shape, self.labels)

    def labels_of(self, start: int, stop: int) -> np.ndarray | None:
        return None if self.labels is None else self.labels[start:stop]

    def read(self, start: int, stop: int) -> list[np.ndarray]:
        start, stop, _ = slice(start, stop).indices(self.rows)
        images = np.empty((max(stop - start, 0), *self._shape[1:]), np.uint8)
        if len(images):
            self._npz.fill(self._name, self._header.offset + start * math.prod(self._shape[1:]), images)
        return list(images)


def as_labels(values: np.ndarray, rows: int, where: str) -> np.ndarray | None:
    """Classes as int64 [rows]; None where all are -1, which is how dgflow writes that there are none.

    Raises:
        ValueError: another number, shape or type of them.
    """
    if values.ndim != 1 or values.dtype.kind not in "iu" or len(values) != rows:
        raise ValueError(
            f"expected {rows:,} labels as whole numbers in {where}, found {values.dtype} of shape "
            f"{values.shape}"
        )
    labels = values.astype(np.int64)
    return None if (labels == -1).all() else labels


def _damaged(name: str, source: str, error: Exception) -> ValueError:
    return ValueError(
        f"expected a whole array {name} in {source}, found one that is damaged ({error}); fetch or make "
        "that file again"
    )


def _image_shape(header: Header, where: str) -> tuple[int, int, int, int]:
    """[rows, H, W, C] of uint8 images in C order."""
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
        raise ValueError(
            f"expected images of shape (rows, height, width, 1 or 3) in {where}, found {header.shape}{remedy}"
        )
    if header.fortran and len(header.shape) > 1:
        raise ValueError(
            f"expected rows one after another in {where}, found Fortran order; save "
            "numpy.ascontiguousarray of it"
        )
    return shape  # pyright: ignore[reportReturnType] (four of them, as was checked)

"""Reads the images of a listing, in any order and in any process.

A source that no longer matches its listing is refused (`Changed`). A broken picture is returned as an error
value, so that a check can continue with the next picture. Readers can be pickled, without their open files. A
reader is used by one thread only.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import IO, Any

import numpy as np

from dgflow.files import tars, zips
from dgflow.files.locations import Location, file_size
from dgflow.images.cifar import find_batches, read_batches
from dgflow.images.digests import Digests, picture_digests, pixel_digests, pixels_sha256, row_sha256
from dgflow.images.listing import Listing, changed, replaced, unseen
from dgflow.images.npz import NpzImages
from dgflow.images.order import OTHER_INDEX, Unordered, index_order, ordered
from dgflow.images.packaged import FORMS, PACKAGED
from dgflow.images.parquet import ImageFile
from dgflow.images.pictures import check_picture, decode_picture
from dgflow.images.splits import locate_images

_AT_ONCE = 32  # maximum number of pictures whose bytes are in memory
OPEN_TARS = 256
"""Maximum number of open tars. It limits the disk space of a worker for compressed tars."""
_OPEN_PARQUET = 128  # maximum number of open Parquet files

Rows = Sequence[int] | np.ndarray


def open_reader(source: str, listing: Listing, folder: str = "", drop_alpha: bool = False) -> Reader:
    """Returns a reader of the listed images of `source`, without opening a file.

    Args:
        folder: the folder that a relative path starts from.
        drop_alpha: drop the alpha channel of transparent pictures, which are refused otherwise.
    """
    whole = dict.fromkeys(["cifar", *FORMS], WholeReader)
    kinds = {"npz": NpzReader, "parquet": ParquetReader, **whole}
    location = None if listing.form in FORMS else locate_images(source, folder)[0]
    return kinds.get(listing.form, PictureReader)(source, location, listing, drop_alpha)


class Reader(ABC):
    """The images of a listing. Files are opened at the first read."""

    def __init__(
        self, source: str, location: Location | None, listing: Listing, drop_alpha: bool = False
    ) -> None:
        self.source, self._location, self.listing = source, location, listing
        self.drop_alpha = drop_alpha

    def __getstate__(self) -> dict[str, Any]:
        return {name: vars(self)[name] for name in ("source", "_location", "listing", "drop_alpha")}

    @property
    def location(self) -> Location:
        assert self._location is not None
        return self._location

    def read(self, rows: Rows, expected: np.ndarray | None = None) -> Iterator[np.ndarray | ValueError]:
        """Yields the pixels of rows in the order of the request, uint8 [H, W, 1|3], owned by the caller. For
        a broken picture it yields the error that names the picture. Ascending order is fastest.

        Args:
            expected: the `Digests.rows` of these rows, with which the rows are compared.

        Raises:
            Changed: the source differs from the listing, or a row differs from its expected digest.
            ValueError: the source is missing, or a file with several images is damaged.
        """
        cells = self.cells(rows) if expected is None else self._compared(rows, expected)
        return map(self.decoded, rows, cells)

    def decoded(self, row: int, cell: Any) -> np.ndarray | ValueError:
        """Returns the pixels of a row from its cell, which `cells` yielded, or the error that names its
        picture. This method may be called from several threads."""
        if not isinstance(cell, bytes):
            return cell
        try:
            return decode_picture(cell, self._row_name(int(row)), self.drop_alpha)
        except ValueError as error:
            return error

    def _compared(self, rows: Rows, expected: np.ndarray) -> Iterator[Any]:
        """Yields as `cells` does. Raises Changed for a row without the expected digest."""
        for row, cell, digest in zip(rows, self.cells(rows), expected, strict=True):
            if not isinstance(cell, ValueError) and row_sha256(cell) != digest.tobytes():
                raise replaced(self._row_name(int(row)))
            yield cell

    def digests(self, order: np.ndarray, labels: np.ndarray | None) -> Digests:
        """Returns the digests of all rows in this order with these labels: of pixels, or of the bytes of
        pictures. All images are read once."""
        return picture_digests(unbroken(self.cells(order)), labels)

    def looked_at(self, order: np.ndarray, labels: np.ndarray | None) -> tuple[Digests, int, int]:
        """Returns the digests, the number of grey pictures and the number of colour pictures. Both numbers
        are 0 if the images are not pictures.

        All images are read once. Raises ValueError for a picture whose header shows that it cannot be used.
        """
        if not self._holds_pictures():
            return self.digests(order, labels), 0, 0
        counts = {1: 0, 3: 0}

        def checked() -> Iterator[bytes]:
            for row, cell in zip(order, unbroken(self.cells(order)), strict=True):
                counts[check_picture(cell, self._row_name(int(row)), self.drop_alpha)] += 1
                yield cell

        return picture_digests(checked(), labels), counts[1], counts[3]

    def check(self, row: int) -> None:
        """Raises ValueError for a picture whose header shows that it cannot be used. Damage beyond the header
        is not detected."""
        (cell,) = self.cells([row])
        if isinstance(cell, bytes):
            check_picture(cell, self._row_name(row), self.drop_alpha)

    def _holds_pictures(self) -> bool:
        """Returns True for encoded pictures, False for arrays of pixels."""
        return False

    def cells(self, rows: Rows) -> Iterator[Any]:
        """Yields for each row its pixels, the bytes of its picture, or the error that names the picture.
        Raises as `read` does."""
        for start in range(0, len(rows), _AT_ONCE):
            yield from self._block([int(row) for row in rows[start : start + _AT_ONCE]])

    def order(self) -> tuple[np.ndarray, int] | None:
        """Returns the rows in the order of their indices, and the first index. None if the rows have no
        indices.

        Raises Unordered if the indices are not consecutive, or if only some rows have indices.
        """
        return None

    @abstractmethod
    def _block(self, rows: list[int]) -> Iterator[Any]:
        """Yields as `cells` does, for a few rows."""

    def _row_name(self, row: int) -> str:
        return f"{self.source}: {self.listing.name(row)}"

    def _file_name(self, number: int) -> str:
        name = self.listing.files[number][0]
        return f"{self.source}: {name}" if name else self.source

    def _numbers(self, row: int, *columns: str) -> list[int]:
        return [int(self.listing.columns[name][row]) for name in columns]

    def _check_size(self, number: int) -> None:
        """Raises ValueError if a file of the listing is missing, and Changed if its size differs."""
        name, size = self.listing.files[number]
        try:
            found = file_size(self.location, name)
        except FileNotFoundError:
            raise unseen(f"{self.location.url}/{name}".rstrip("/")) from None
        if found != size:
            raise changed(self._file_name(number), size, found)


def unbroken(cells: Iterable[Any]) -> Iterator[Any]:
    """Yields the cells or pixels of a reader; raises the first error among them."""
    for cell in cells:
        if isinstance(cell, ValueError):
            raise cell
        yield cell


def _pieces(blocks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yields the bytes of consecutive blocks in pieces of `size`."""
    left = b""
    for block in blocks:
        left += block
        whole = len(left) // size * size
        yield from (left[start : start + size] for start in range(0, whole, size))
        left = left[whole:]


class PictureReader(Reader):
    """Encoded pictures in a folder, a zip or tars."""

    def _holds_pictures(self) -> bool:
        return True

    def order(self) -> tuple[np.ndarray, int] | None:
        assert self.listing.names is not None
        return index_order(self.listing.names.to_pylist(), self.source)

    def _block(self, rows: list[int]) -> Iterator[bytes | ValueError]:
        form = self.listing.form
        huge = [row for row in rows if self._numbers(row, "size")[0] > zips.MOST]
        if not huge:
            yield from (
                self._of_folder(rows)
                if form == "folder"
                else map(self._of_zip if form == "zip" else self._of_tar, rows)
            )
            return
        for row in rows:  # one by one
            yield from iter([self._too_large(row)]) if row in huge else self._block([row])

    def _too_large(self, row: int) -> ValueError:
        (size,) = self._numbers(row, "size")
        return ValueError(
            f"expected an image at {self._row_name(row)}, found {size:,} bytes, more than the maximum of "
            f"{zips.MOST:,}; remove it"
        )

    def _of_folder(self, rows: list[int]) -> list[bytes]:
        names = self.listing.paths(rows)
        try:
            pictures = self.location.read_many(names)
        except FileNotFoundError as error:
            raise unseen(error.filename or f"a file of {self.location.url} ({error})") from error
        for row, data in zip(rows, pictures, strict=True):
            (size,) = self._numbers(row, "size")
            if len(data) != size:
                raise changed(self._row_name(row), size, len(data))
        return pictures

    def _of_zip(self, row: int) -> bytes | ValueError:
        file = self._zip
        try:
            return zips.read_member(file, *self._numbers(row, "offset", "stored", "size", "crc"))
        except ValueError as error:
            return ValueError(
                f"expected an image at {self._row_name(row)}, found an unusable file ({error}); repair or "
                "remove it"
            )

    def _of_tar(self, row: int) -> bytes:
        number, *where = self._numbers(row, "file", "offset", "size", "crc")
        data = tars.read_member(self._tar(number), *where)
        if data is None:
            raise replaced(self._row_name(row))
        return data

    @cached_property
    def _zip(self) -> IO[bytes]:
        self._check_size(0)
        return self.location.open()

    @cached_property
    def _tars(self) -> dict[int, IO[bytes]]:
        return {}

    def _tar(self, number: int) -> IO[bytes]:
        if number not in self._tars:
            if len(self._tars) >= OPEN_TARS:
                self._tars.clear()
            self._check_size(number)
            name = self.listing.files[number][0]
            file = tars.open_tar(self.location, name)
            digest = self.listing.digest.split()[number]
            if digest != "-" and digest != tars.content_sha256(file):  # only a compressed tar has a digest
                raise replaced(self._file_name(number))
            self._tars[number] = file
        return self._tars[number]


class NpzReader(Reader):
    """Reads rows of an npz."""

    @cached_property
    def _npz(self) -> NpzImages:
        self._check_size(0)
        npz = NpzImages(self.source, self.location)
        if npz.digest != self.listing.digest:
            raise replaced(self.source)
        return npz

    def digests(self, order: np.ndarray, labels: np.ndarray | None) -> Digests:
        del order  # npz files have no indices
        shape = self._npz.shape
        return pixel_digests(_pieces(self._npz.blocks(), math.prod(shape[1:])), shape, labels)

    def _block(self, rows: list[int]) -> Iterator[np.ndarray]:
        for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
            yield from self._npz.read(int(run[0]), int(run[-1]) + 1)


class ParquetReader(Reader):
    """Reads rows of Parquet files. One row group is in memory at a time. Each group is read once if rows are
    requested in ascending order."""

    @cached_property
    def _files(self) -> dict[int, ImageFile]:
        return {}

    @cached_property
    def _held(self) -> dict[tuple[int, int], Sequence[Any] | np.ndarray]:
        """The row group that was read last, by file and number."""
        return {}

    def order(self) -> tuple[np.ndarray, int] | None:
        files = [self._file(number) for number in range(len(self.listing.files))]
        indexed = [file for file in files if "index" in file.columns]
        if not indexed:
            return None
        try:
            if len(indexed) < len(files):
                raise ValueError(
                    f"expected a column index in all files of {self.source}, or in none, found it in "
                    f"{len(indexed):,} of {len(files):,}; open the files one at a time"
                )
            index = np.concatenate([file.numbers("index") for file in files])
            # As with file names, numbers of which most are missing are not indices.
            if files[0].shape is None and 2 * len(index) <= index.max() - index.min():
                return None
            return ordered(index, self.source)
        except ValueError as error:  # the indices may belong to other rows, so the order stays unchanged
            rows = np.arange(self.listing.rows)
            note = "the column index does not number these rows and is ignored"
            raise Unordered(f"{error}; if {OTHER_INDEX}", rows, note) from error

    def _holds_pictures(self) -> bool:
        return self._file(0).shape is None

    def digests(self, order: np.ndarray, labels: np.ndarray | None) -> Digests:
        shape = self._file(0).shape
        if shape is None:
            return super().digests(order, labels)
        return pixel_digests(self.cells(order), (len(order), *shape), labels)

    def _block(self, rows: list[int]) -> Iterator[bytes | np.ndarray]:
        for row in rows:
            number, offset = self._numbers(row, "file", "offset")
            file = self._file(number)
            group = int(np.searchsorted(file.starts, offset, side="right")) - 1
            if (number, group) not in self._held:
                self._held.clear()
                self._held[number, group] = file.cells(group)
            cell = self._held[number, group][offset - file.starts[group]]
            yield cell.copy() if isinstance(cell, np.ndarray) else cell

    def _row_name(self, row: int) -> str:
        number, offset = self._numbers(row, "file", "offset")
        return f"row {offset} of {self._file_name(number)}"

    def _file(self, number: int) -> ImageFile:
        if number not in self._files:
            if len(self._files) >= _OPEN_PARQUET:
                self._files.clear()
            self._check_size(number)
            file = ImageFile(self.location, self.listing.files[number][0], self.source)
            if file.footer_sha256() != self.listing.digest.split()[number]:
                raise replaced(self._file_name(number))
            self._files[number] = file
        return self._files[number]


class WholeReader(Reader):
    """Reads sets that fit into memory: CIFAR (154 MB) and the digits."""

    @cached_property
    def _images(self) -> np.ndarray:
        for number in range(len(self.listing.files)):
            self._check_size(number)
        images, labels = read_whole(self.source, self._location)
        if pixels_sha256([images.data], images.shape, labels) != self.listing.digest:
            raise replaced(self.source)
        return images

    def digests(self, order: np.ndarray, labels: np.ndarray | None) -> Digests:
        del order, labels  # these sets have no indices, and their digest includes their labels
        return Digests(self.listing.digest)

    def _block(self, rows: list[int]) -> Iterator[np.ndarray]:
        return (self._images[row].copy() for row in rows)


def read_whole(source: str, location: Location | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images and labels of CIFAR at a location, or without a location those of a set in a
    package."""
    if location is None:
        return PACKAGED[source].read()
    with _batch_files(location, source) as (sizes, read):
        batches = find_batches(list(sizes), source)
        assert batches is not None
        return read_batches(batches, read, source)


@contextlib.contextmanager
def _batch_files(location: Location, source: str) -> Iterator[tuple[dict[str, int], Callable[[str], bytes]]]:
    """Yields the sizes of the files in a folder or a tar, by path, and a function that returns the bytes of a
    file."""
    if location.kind() == "folder":
        yield location.contents().sizes, lambda name: location.read_many([name])[0]
        return
    with tars.open_tar(location, "") as file:
        members = {member.name: member for member in tars.members(file, source).members}

        def read(name: str) -> bytes:
            file.seek(members[name].offset)
            return file.read(members[name].size)

        yield {name: member.size for name, member in members.items()}, read

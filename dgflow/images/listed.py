"""Reading the images of a listing, in any order and in any process.

Promises that a source which is no longer as it was listed is refused (`Changed`), and that a picture which is
broken is an answer, so that whoever checks can go on to the next. Readers can be pickled; what they have open
stays behind. One reader is for one thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import IO, Any, Protocol

import numpy as np

from dgflow.images import tars, zips
from dgflow.images.cifar import find_batches, read_batches
from dgflow.images.digests import pixels_sha256
from dgflow.images.listing import Listing, changed, replaced, unseen
from dgflow.images.mnist_5k import read_mnist_5k
from dgflow.images.npz import NpzImages
from dgflow.images.pictures import decode_picture
from dgflow.images.places import Place, open_place

_AT_ONCE = 32  # pictures whose bytes are held
OPEN_TARS = 256
"""How many are kept open: what a worker needs of the disk, where they are compressed."""


class Listed(Protocol):
    def read(self, rows: Sequence[int] | np.ndarray) -> Iterator[np.ndarray | ValueError]:
        """The pixels of rows, uint8 [H, W, 1|3], in the order asked for; for a broken picture the error that
        names it. Fastest in ascending order.

        Raises:
            Changed: the source is another one than was listed.
            ValueError: the source is not there, or damaged where it holds more than one image.
        """
        ...


def open_listed(source: str, listing: Listing, folder: str = "") -> Listed:
    """A reader of what `listing` says of `source`, of a relative path below `folder`. Opens nothing yet."""
    if listing.form == "mnist-5k":
        return _Arrays(source, None, listing)
    place = open_place(source, folder)
    if listing.form == "cifar":
        return _Arrays(source, place, listing)
    if listing.form == "npz":
        return _Npz(source, place, listing)
    if listing.form == "parquet":
        from dgflow.images.parquet_rows import ParquetRows

        return ParquetRows(source, place, listing)
    return _Pictures(source, place, listing)


class _Opened:
    """A source whose files are opened when they are first read."""

    def __init__(self, source: str, place: Place | None, listing: Listing) -> None:
        self.source, self._place, self.listing = source, place, listing

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name in ("source", "_place", "listing")}

    @property
    def place(self) -> Place:
        assert self._place is not None
        return self._place

    def check_size(self, number: int) -> None:
        """Raises ValueError where a file of the listing is not there, Changed where it has another size."""
        name, size = self.listing.files[number]
        where = f"{self.source}: {name}" if name else self.source
        try:
            with self.place.open(name) as file:
                found = file.seek(0, 2)
        except FileNotFoundError:
            raise unseen(f"{self.place.url}/{name}".rstrip("/")) from None
        if found != size:
            raise changed(where, size, found)


class _Pictures(_Opened):
    """Encoded pictures in a folder, a zip or tars."""

    def read(self, rows: Sequence[int] | np.ndarray) -> Iterator[np.ndarray | ValueError]:
        fetch = {"folder": self._of_folder, "zip": self._of_zip, "tar": self._of_tars}[self.listing.form]
        for start in range(0, len(rows), _AT_ONCE):
            block = [int(row) for row in rows[start : start + _AT_ONCE]]
            for row, data in zip(block, fetch(block), strict=True):
                where = f"{self.source}: {self.listing.name(row)}"
                if isinstance(data, ValueError):
                    yield ValueError(
                        f"expected an image at {where}, found what cannot be used ({data}); mend or remove it"
                    )
                    continue
                try:
                    yield decode_picture(data, where)
                except ValueError as error:
                    yield error

    def _of_folder(self, rows: list[int]) -> list[bytes]:
        names = self.listing.paths(rows)
        try:
            found = self.place.read_many(names)
        except FileNotFoundError as error:
            raise unseen(error.filename or f"a file of {self.place.url} ({error})") from error
        for row, name, data in zip(rows, names, found, strict=True):
            if len(data) != (size := int(self.listing.columns["size"][row])):
                raise changed(f"{self.source}: {name}", size, len(data))
        return found

    def _of_zip(self, rows: list[int]) -> Iterator[bytes | ValueError]:
        file = self._zip
        for row in rows:
            offset, stored, size, crc = (
                int(self.listing.columns[name][row]) for name in ("offset", "stored", "size", "crc")
            )
            try:
                yield zips.read_member(file, offset, stored, size, crc)
            except ValueError as error:
                yield error

    def _of_tars(self, rows: list[int]) -> Iterator[bytes]:
        for row in rows:
            number, offset, size, crc = (
                int(self.listing.columns[name][row]) for name in ("file", "offset", "size", "crc")
            )
            data = tars.read_member(self._tar(number), offset, size, crc)
            if data is None:
                raise replaced(f"{self.source}: {self.listing.name(row)}")
            yield data

    @cached_property
    def _zip(self) -> IO[bytes]:
        self.check_size(0)
        return self.place.open()

    def _tar(self, number: int) -> IO[bytes]:
        files: dict[int, IO[bytes]] = vars(self).setdefault("_files", {})
        if number not in files:
            if len(files) >= OPEN_TARS:
                files.clear()
            self.check_size(number)
            name = self.listing.files[number][0]
            file = tars.open_tar(self.place, name)
            if (
                tars.is_compressed(name or self.source)
                and tars.content_sha256(file) != self.listing.digest.split()[number]
            ):
                raise replaced(f"{self.source}: {name}" if name else self.source)
            files[number] = file
        return files[number]


class _Npz(_Opened):
    """Rows of an npz."""

    @cached_property
    def _images(self) -> NpzImages:
        self.check_size(0)
        found = NpzImages(self.source, self.place, labelled=False)
        if found.listed_digest != self.listing.digest:
            raise replaced(self.source)
        return found

    def read(self, rows: Sequence[int] | np.ndarray) -> Iterator[np.ndarray | ValueError]:
        for row in rows:
            yield self._images.read(int(row), int(row) + 1)[0]


class _Arrays(_Opened):
    """Sets that are small enough to be held whole: CIFAR (154 MB), the digits."""

    @cached_property
    def _images(self) -> np.ndarray:
        images, labels = self._read()
        if pixels_sha256([images.data], images.shape, labels) != self.listing.digest:
            raise replaced(self.source)
        return images

    def _read(self) -> tuple[np.ndarray, np.ndarray]:
        if self.listing.form == "mnist-5k":
            return read_mnist_5k()
        for number in range(len(self.listing.files)):
            self.check_size(number)
        with batch_files(self.place, self.source) as (names, read):
            batches = find_batches(names, self.source)
            assert batches is not None
            return read_batches(batches, read, self.source)

    def read(self, rows: Sequence[int] | np.ndarray) -> Iterator[np.ndarray | ValueError]:
        for row in rows:
            yield self._images[row]


@contextlib.contextmanager
def batch_files(place: Place, source: str) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """The paths in a folder or in a tar that is the place, and a function that gives the bytes of one."""
    if place.kind() == "folder":
        yield place.files(), lambda name: place.read_many([name])[0]
        return
    with tars.open_tar(place, "") as file:
        found = {member.name: member for member in tars.members(file, source)}

        def read(name: str) -> bytes:
            file.seek(found[name].offset)
            return file.read(found[name].size)

        yield list(found), read

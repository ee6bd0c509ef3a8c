"""Read numpy's npz files: arrays by name, whole or by byte ranges; nothing is unpickled.

Memory use is constant: an uncompressed array is read by byte ranges, a compressed one as a stream, in which
seeking backwards starts again. Checksums are verified if an array is read whole.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from functools import cached_property
from typing import IO, Any, BinaryIO, NamedTuple, Protocol

import numpy as np

from dgflow.files.zips import DAMAGED, data_offset

_BLOCK = 16 * 2**20  # bytes per block in `blocks`


class Openable(Protocol):
    """A `Location` of a file, or another object that can open one."""

    def open(self) -> BinaryIO: ...


class Header(NamedTuple):
    """The dtype and shape of an array, from its header."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int  # bytes from the start of the member to the values
    fortran: bool


class NpzFile:
    """The arrays of an npz file. Opened at the first read; picklable if `file` is."""

    def __init__(self, source: str, file: Openable) -> None:
        self.source = source
        self._openable = file

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source, "_openable": self._openable}

    @cached_property
    def _file(self) -> BinaryIO:
        return self._openable.open()

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self._file)
        except zipfile.BadZipFile as error:
            raise ValueError(
                f"expected an npz at {self.source}, found another kind of file or a truncated one ({error})"
            ) from error

    @cached_property
    def _streams(self) -> dict[str, IO[bytes]]:
        return {}

    @property
    def names(self) -> list[str]:
        """Names of the arrays, in file order."""
        return [name.removesuffix(".npy") for name in self._archive.namelist() if name.endswith(".npy")]

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return self._file.seek(0, 2)

    def checksums(self) -> dict[str, int]:
        """CRC-32 of the members, from the zip directory: no data is read."""
        return {entry.filename: entry.CRC for entry in self._archive.infolist()}

    def header(self, name: str) -> Header:
        """Read an array's header. Raises ValueError if the member is not a numeric array or differs in size
        from its header.
        """
        member = self._archive.getinfo(f"{name}.npy")
        try:
            with self._archive.open(member) as stream:
                first = np.lib.format.read_magic(stream) == (1, 0)
                read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
                shape, fortran, dtype = read(stream)
                offset = stream.tell()
        except DAMAGED as error:
            raise self._damaged(name, error) from error
        except (ValueError, NotImplementedError) as error:
            raise ValueError(
                f"expected an array {name} in {self.source}, found a member that is not an array ({error})"
            ) from error
        if dtype.hasobject:
            raise ValueError(
                f"expected an array of numbers {name} in {self.source}, found Python objects (allow_pickle), "
                "which are not loaded; save the array with a numeric dtype"
            )
        if offset + math.prod(shape) * dtype.itemsize != member.file_size:
            raise ValueError(
                f"expected {shape} values of {dtype} in {name} of {self.source}, found "
                f"{member.file_size - offset:,} bytes"
            )
        return Header(shape, dtype, offset, fortran)

    def array(self, name: str) -> np.ndarray:
        """Read a whole array; its checksum is verified."""
        header = self.header(name)
        data = bytearray(math.prod(header.shape) * header.dtype.itemsize)
        position = 0
        for block in self.blocks(name, header):
            data[position : position + len(block)] = block
            position += len(block)
        return np.frombuffer(data, header.dtype).reshape(header.shape, order="F" if header.fortran else "C")

    def blocks(self, name: str, header: Header) -> Iterator[bytes]:
        """Yield the bytes of the values in blocks; the checksum is verified with the last block."""
        try:
            with self._archive.open(f"{name}.npy") as stream:
                stream.read(header.offset)
                while block := stream.read(_BLOCK):
                    yield block
        except DAMAGED as error:
            raise self._damaged(name, error) from error

    def fill(self, name: str, offset: int, out: np.ndarray) -> None:
        """Read `out.nbytes` bytes into `out` (C order), from `offset` bytes after the start of the member."""
        member = self._archive.getinfo(f"{name}.npy")
        try:
            if member.compress_type == zipfile.ZIP_STORED:
                stream, position = self._file, data_offset(self._file, member.header_offset)[0] + offset
            else:
                stream, position = self._streams.get(name), offset
                if stream is None:
                    stream = self._streams[name] = self._archive.open(member)
            stream.seek(position)
            count = stream.readinto(out.reshape(-1).data)  # type: ignore[attr-defined]
        except DAMAGED as error:
            self._streams.pop(name, None)
            raise self._damaged(name, error) from error
        if count != out.nbytes:
            raise ValueError(
                f"expected a whole array {name} in {self.source}, found a truncated one; download or write "
                "that file again"
            )

    def _damaged(self, name: str, error: Exception) -> ValueError:
        return ValueError(
            f"expected a whole array {name} in {self.source}, found a damaged one ({error}); download or "
            "write that file again"
        )

"""Reads images in Parquet: dgflow's shards (tensors) and the format of Hugging Face's data sets (pictures).

Page checksums are verified if a file has them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dgflow.files.locations import Location

IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp")
"""Names of the column of images in data sets. The first name that a file has is used."""
LABEL_NAMES = ("label", "labels", "fine_label", "cls")
"""Names of the column of labels, in the same way."""

_BYTES = (
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_fixed_size_binary,
)


class ImageFile:
    """One Parquet file of images.

    `shape` is [H, W, C] of tensors, None for pictures. `label` is the name of the column of labels, None
    without one. `counts` are the numbers of rows of the row groups.
    """

    def __init__(self, location: Location, name: str, source: str) -> None:
        """Opens the file. Raises FileNotFoundError, and ValueError for another format, a truncated file, or a
        file without images."""
        self.where = f"{source}: {name}" if name else source
        self._handle = location.open(name)
        try:
            self._file = pq.ParquetFile(self._handle, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"expected Parquet at {self.where}, found another file or one that is cut short ({error})"
            ) from error
        schema, metadata = self._file.schema_arrow, self._file.metadata
        self.columns: list[str] = schema.names
        self._image = _image_column(self.columns, self.where)
        self.shape = _shape_of(schema.field(self._image).type, self._image, self.where)
        self.label = next((name for name in LABEL_NAMES if name in self.columns), None)
        self.counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self.starts = np.cumsum([0, *self.counts])  # first row of each group, then the number of rows

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return self._handle.seek(0, 2)

    def footer_sha256(self) -> str:
        """Returns the sha256 of the footer, which locates every part of the file."""
        end = self._handle.seek(-8, 2)
        length = min(int.from_bytes(self._handle.read(4), "little"), end)
        self._handle.seek(end - length)
        return hashlib.sha256(self._handle.read(length)).hexdigest()

    def numbers(self, name: str) -> np.ndarray:
        """Reads a column as int64. Raises ValueError if it holds anything but integers."""
        column = self._read(lambda: self._file.read(columns=[name])).column(0)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if not pa.types.is_integer(column.type) or column.null_count:
            empty = f"{column.null_count:,} empty cells of " if column.null_count else ""
            raise ValueError(
                f"expected whole numbers in the column {name} of {self.where}, found {empty}{column.type}"
            )
        return column.to_numpy().astype(np.int64)

    def labels(self, name: str) -> list[Any]:
        """Reads a column of labels of any type as Python values, None for an empty cell."""
        return self._read(lambda: self._file.read(columns=[name])).column(0).to_pylist()

    def cells(self, group: int) -> Sequence[Any] | np.ndarray:
        """Reads the images of a row group: uint8 [rows, H, W, C], or a list of the pictures' bytes."""
        column = self._read(lambda: self._file.read_row_group(group, columns=[self._image])).column(0)
        if self.shape is not None:
            return self._tensors(column, group)
        cells = (_part(column, "bytes") if pa.types.is_struct(column.type) else column).to_pylist()
        if None in cells:
            raise ValueError(
                f"expected the bytes of pictures in {self.where}, found only a path or nothing in row "
                f"{self.starts[group] + cells.index(None)}; save the pictures with their bytes (in datasets: "
                "embed_external_files=True)"
            )
        return cells

    def _tensors(self, column: pa.ChunkedArray, group: int) -> np.ndarray:
        assert self.shape is not None
        if column.null_count:
            row = self.starts[group] + column.is_null().to_pylist().index(True)
            raise ValueError(
                f"expected an image in every row of {self.where}, found none in row {row}"
                f"{f' (and {column.null_count - 1:,} more)' if column.null_count > 1 else ''}; leave those "
                "rows out"
            )
        if not len(column):
            return np.empty((0, *self.shape), np.uint8)
        chunk = column.combine_chunks()
        chunk = chunk.chunk(0) if isinstance(chunk, pa.ChunkedArray) else chunk
        return chunk.to_numpy_ndarray().reshape(-1, *self.shape)  # pyright: ignore[reportAttributeAccessIssue]

    def _read(self, read) -> pa.Table:
        try:
            return read()
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"expected whole rows at {self.where}, found damaged ones ({error}); fetch the file again"
            ) from error


def _part(structs: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Returns one field of a column of structs, empty where the struct is empty."""
    return pc.struct_field(structs, name)  # pyright: ignore[reportAttributeAccessIssue] (made at import)


def _image_column(columns: Sequence[str], where: str) -> str:
    """Returns the name of the column of images. Raises ValueError if there is none."""
    for name in IMAGE_NAMES:
        if name in columns:
            return name
    hint = ": these are latents; decode them first" if "latent" in columns else ""
    raise ValueError(
        f"expected a column image (or {', '.join(IMAGE_NAMES[1:])}) in {where}, found {columns}{hint}"
    )


def _shape_of(kind: pa.DataType, name: str, where: str) -> tuple[int, int, int] | None:
    """Returns [H, W, C] of tensors, None for pictures. Raises ValueError for anything else."""
    if isinstance(kind, pa.FixedShapeTensorType):
        shape = tuple(kind.shape)
        shape = (*shape, 1) if len(shape) == 2 else shape
        if kind.value_type == pa.uint8() and len(shape) == 3 and shape[2] in (1, 3):
            return shape  # pyright: ignore[reportReturnType]
    else:
        of_bytes = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        cell = kind.field("bytes").type if of_bytes else kind
        cell = cell.value_type if pa.types.is_dictionary(cell) else cell
        if any(is_bytes(cell) for is_bytes in _BYTES):
            return None
    raise ValueError(
        f"expected uint8 images [H, W, 1 or 3], or pictures as bytes, in the column {name} of {where}, "
        f"found {kind}"
    )

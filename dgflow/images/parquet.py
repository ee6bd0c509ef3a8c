"""Images in Parquet, one file or a folder of them: dgflow's shards (tensors) and the form of Hugging Face's
data sets (encoded pictures).

Promises flat memory (one row group is held) and rows in the order of the column `index` where there is one,
each index exactly once. Page checksums are verified where a file has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dgflow.images.digests import pictures_sha256, pixels_sha256
from dgflow.images.npz import as_labels
from dgflow.images.order import ordered
from dgflow.images.pictures import decode_picture
from dgflow.images.places import Place

IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp")
"""What data sets call the column of images; the first that is there."""
LABEL_NAMES = ("label", "labels", "fine_label", "cls")

_BLOCK = 64  # rows that are held, besides their row group, while a digest is made


class ParquetImages:
    """Images in the column `image` (or `img`, ...): uint8 tensors of one shape, or pictures as bytes or as
    `{bytes, path}`."""

    seed: int | None = None
    seeding: None = None

    def __init__(self, source: str, place: Place, files: Sequence[str]) -> None:
        """`files` are names within `place`; [""] is the place itself. Reads footers, indices and labels.

        Raises:
            ValueError: no or other images, files that do not fit together, or indices that are missing or
                doubled.
        """
        self.source = source
        self._place = place
        self._names = list(files)
        self._groups: list[tuple[int, int]] = []  # (file, row group)
        starts, parts, forms = [0], [], []
        for number, name in enumerate(self._names):
            file = self._open(number)
            forms.append(form_of(file.schema_arrow, self._where(name)))
            for group in range(file.num_row_groups):
                self._groups.append((number, group))
                starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
            label = label_column(file.schema_arrow)
            part = self._read(
                number, None, [each for each in ("index", label) if each and each in file.schema_arrow.names]
            )
            parts.append(
                part.rename_columns(["label" if each == label else each for each in part.column_names])
            )
        if len(set(forms)) > 1 or len({tuple(part.column_names) for part in parts}) > 1:
            found = " and ".join(
                sorted(
                    {
                        f"{form or 'pictures'} with {part.column_names}"
                        for form, part in zip(forms, parts, strict=True)
                    }
                )
            )
            raise ValueError(
                f"expected images of one form and shape in all files of {source}, found {found}; open them "
                "one at a time"
            )
        self._shape: tuple[int, int, int] | None = forms[0]  # of tensors, None: pictures
        self._starts = np.array(starts)
        self.rows = starts[-1]
        if not self.rows:
            raise ValueError(f"expected images in {source}, found no rows")
        columns = {name: numbers(parts, name, source) for name in parts[0].column_names}
        self._order, self.first_index = np.arange(self.rows), None
        if "index" in columns:
            self._order, self.first_index = ordered(columns["index"], source)
        self.labels = (
            as_labels(columns["label"][self._order], self.rows, f"label of {source}")
            if "label" in columns
            else None
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_opened", "_held")}

    @property
    def digest(self) -> str:
        """Of pixels and labels where the images are tensors, else of the pictures' bytes and labels; reads
        everything once."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        if self._shape is None:
            return pictures_sha256((data for _, data in self._cells(0, self.rows)), self.labels)
        blocks = (np.stack(self.read(start, start + _BLOCK)).data for start in range(0, self.rows, _BLOCK))
        return pixels_sha256((block.cast("B") for block in blocks), (self.rows, *self._shape), self.labels)

    def labels_of(self, start: int, stop: int) -> np.ndarray | None:
        return None if self.labels is None else self.labels[start:stop]

    def read(self, start: int, stop: int) -> list[np.ndarray]:
        if self._shape is None:
            return [
                decode_picture(data, f"row {row} of {self.source}") for row, data in self._cells(start, stop)
            ]
        return [pixels.reshape(self._shape).copy() for _, pixels in self._cells(start, stop)]

    def _cells(self, start: int, stop: int) -> Iterator[tuple[int, Any]]:
        """Rows and what the column `image` holds of them."""
        start, stop, _ = slice(start, stop).indices(self.rows)
        for row in range(start, stop):
            position = self._order[row]
            group = int(np.searchsorted(self._starts, position, side="right")) - 1
            held, values = vars(self).get("_held", (None, None))
            if held != group:
                values = self._load(group)
                self._held = (group, values)
            yield row, values[position - self._starts[group]]  # pyright: ignore[reportOptionalSubscript]

    def _load(self, group: int) -> Sequence[Any] | np.ndarray:
        """A row group's images: an array, or a list of bytes."""
        number, place = self._groups[group]
        name = image_column(self._open(number).schema_arrow, self.source)
        return cells_of(
            self._read(number, place, [name]).column(0), self._shape, self.source, int(self._starts[group])
        )

    def _open(self, number: int) -> pq.ParquetFile:
        """Keeps the last one open: rows in order need one at a time."""
        held, file = vars(self).get("_opened", (None, None))
        if held == number:
            return file  # pyright: ignore[reportReturnType]
        try:
            file = pq.ParquetFile(self._place.open(self._names[number]), page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            where = self._where(self._names[number])
            raise ValueError(
                f"expected Parquet at {where}, found another file or one that is cut short ({error})"
            ) from error
        self._opened = (number, file)
        return file

    def _read(self, number: int, group: int | None, columns: list[str]) -> pa.Table:
        try:
            file = self._open(number)
            return (
                file.read(columns=columns) if group is None else file.read_row_group(group, columns=columns)
            )
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"expected whole rows at {self._where(self._names[number])}, found damaged ones ({error})"
            ) from error

    def _where(self, name: str) -> str:
        return f"{self.source}: {name}" if name else self.source


def image_column(schema: pa.Schema, where: str) -> str:
    """The name of the column of images. Raises ValueError where there is none."""
    for name in IMAGE_NAMES:
        if name in schema.names:
            return name
    hint = ": these are latents; decode them first" if "latent" in schema.names else ""
    raise ValueError(
        f"expected a column image (or {', '.join(IMAGE_NAMES[1:])}) in {where}, found {schema.names}{hint}"
    )


def label_column(schema: pa.Schema) -> str | None:
    return next((name for name in LABEL_NAMES if name in schema.names), None)


def cells_of(
    column: pa.ChunkedArray, shape: tuple[int, int, int] | None, source: str, first: int
) -> Sequence[Any] | np.ndarray:
    """What a column of images holds: an array of tensors, or a list of bytes; `first` is the row of its
    first.

    Raises:
        ValueError: a picture that is only a path.
    """
    whole = column.combine_chunks()
    chunk = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
    if shape is not None:
        return chunk.to_numpy_ndarray()
    cells = (chunk.field("bytes") if pa.types.is_struct(chunk.type) else chunk).to_pylist()
    if None in cells:
        raise ValueError(
            f"expected the pictures themselves in {source}, found only a path or nothing in row "
            f"{first + cells.index(None)}; save them with"
            " their bytes (in datasets: embed_external_files=True)"
        )
    return cells


def form_of(schema: pa.Schema, where: str) -> tuple[int, int, int] | None:
    """[H, W, C] of tensors, None for pictures."""
    name = image_column(schema, where)
    kind = schema.field(name).type
    if isinstance(kind, pa.FixedShapeTensorType):
        shape = tuple(kind.shape)
        shape = (*shape, 1) if len(shape) == 2 else shape
        if kind.value_type == pa.uint8() and len(shape) == 3 and shape[2] in (1, 3):
            return shape  # pyright: ignore[reportReturnType]
    elif _is_binary(kind) or (
        pa.types.is_struct(kind)
        and kind.get_field_index("bytes") >= 0
        and _is_binary(kind.field("bytes").type)
    ):
        return None
    raise ValueError(
        f"expected uint8 images [H, W, 1 or 3], or pictures as bytes, in the column {name} of {where}, "
        f"found {kind}"
    )


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def numbers(parts: Sequence[pa.Table], name: str, source: str) -> np.ndarray:
    column = pa.chunked_array(
        [chunk for part in parts for chunk in part.column(name).chunks], parts[0].column(name).type
    )
    if not pa.types.is_integer(column.type) or column.null_count:
        found = (
            f"{column.null_count:,} empty cells of {column.type}" if column.null_count else str(column.type)
        )
        raise ValueError(f"expected whole numbers in the column {name} of {source}, found {found}")
    return column.to_numpy().astype(np.int64)

"""Rows of Parquet files in any order, as a listing says where they lie.

Promises one row group in memory at a time; asked for rows in the order of their places, it reads each group
once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dgflow.images.listing import Listing, changed, replaced, unseen
from dgflow.images.npz import as_labels
from dgflow.images.parquet import cells_of, form_of, image_column, label_column, numbers
from dgflow.images.pictures import decode_picture
from dgflow.images.places import Place

_SPLIT = re.compile(r"([A-Za-z]\w*)-\d+-of-\d+(?:-[0-9a-f]+)?\.parquet")
_SPLITS = (
    "train",
    "test",
    "validation",
    "val",
    "valid",
    "dev",
    "extra",
)  # that are meant, whatever the others are
_OPEN = 128  # files that are kept open


def training_split(names: Sequence[str], source: str) -> list[str]:
    """Of the files of a Hugging Face data set (`train-00000-of-00040.parquet`, `test/0000.parquet`), those of
    `train`; else all.

    Raises:
        ValueError: there are splits, but none is `train`, or some files are of none.
    """
    splits = {name: _split(name) for name in names}
    found = sorted(set(splits.values()))
    if not set(found) & set(_SPLITS):
        return list(names)
    if "train" not in found or "" in found:
        there = ", ".join(
            split or f"{[name for name in names if not splits[name]][0]} of none" for split in found
        )
        raise ValueError(
            f"expected Parquet with a split train, or of no split, in {source}, found {there}; give one "
            "file, or for another split a folder of its own with names that say no split, such as 0.parquet"
        )
    return [name for name in names if splits[name] == "train"]


def _split(name: str) -> str:
    """The split that a file's folder or name says, "" where none does."""
    *folders, base = name.split("/")
    for folder in reversed(folders):
        if folder.lower() in _SPLITS:
            return folder.lower()
    match = _SPLIT.fullmatch(base)
    return match[1].lower() if match else ""


def list_parquet(source: str, place: Place, files: dict[str, int], labelled: bool = True) -> Listing:
    """Footers and, where they are wanted, labels of `files` (name within `place`, "" for itself, to bytes).

    Raises:
        ValueError: no images, files that do not fit together, or damaged ones.
    """
    rows, groups, digests, parts, forms = [], [], [], [], set()
    for name in files:
        with place.open(name) as handle:
            where = _where(source, name)
            file = _opened(handle, where)
            forms.add(form_of(file.schema_arrow, where))
            label = label_column(file.schema_arrow) if labelled else None
            try:
                parts.append(file.read(columns=[label] if label else []))
            except (pa.ArrowException, OSError) as error:
                raise ValueError(
                    f"expected whole rows at {where}, found damaged ones ({error}); fetch that file again"
                ) from error
            rows.append(file.metadata.num_rows)
            groups += _counts(file)
            digests.append(footer_sha256(handle))
    names = {tuple(part.column_names) for part in parts}
    if len(forms) > 1 or len(names) > 1:
        raise ValueError(
            f"expected images and labels of one form in all files of {source}, found several; give a "
            "folder of one data set"
        )
    total = sum(rows)
    (columns,) = names
    found = numbers(parts, columns[0], source) if columns else None
    return Listing(
        "parquet",
        total,
        files=tuple(files.items()),
        digest=" ".join(digests),
        labels=None if found is None else as_labels(found, total, f"{columns[0]} of {source}"),
        columns={
            "file": np.repeat(np.arange(len(rows)), rows),
            "offset": np.concatenate([np.arange(count) for count in rows]) if rows else np.zeros(0, np.int64),
            "group": np.repeat(np.arange(len(groups)), groups),
        },
    )


class ParquetRows:
    """Reads the rows of a listing."""

    def __init__(self, source: str, place: Place, listing: Listing) -> None:
        self._source, self._place, self._listing = source, place, listing

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_files", "_held")}

    def read(self, rows: Sequence[int] | np.ndarray) -> Iterator[np.ndarray | ValueError]:
        for row in rows:
            number, offset = (int(self._listing.columns[name][row]) for name in ("file", "offset"))
            cell, shape = self._cell(number, offset)
            if shape is not None:
                yield cell.reshape(shape).copy()
                continue
            try:
                yield decode_picture(cell, f"row {row} of {self._source}")
            except ValueError as error:
                yield error

    def _cell(self, number: int, offset: int) -> tuple[Any, tuple[int, int, int] | None]:
        file, starts, shape = self._file(number)
        group = int(np.searchsorted(starts, offset, side="right")) - 1
        held, cells = vars(self).get("_held", (None, None))
        if held != (number, group):
            where = _where(self._source, self._listing.files[number][0])
            name = image_column(file.schema_arrow, where)
            try:
                column = file.read_row_group(group, columns=[name]).column(0)
            except (pa.ArrowException, OSError) as error:
                raise ValueError(
                    f"expected whole rows at {where}, found damaged ones ({error}); fetch that file again"
                ) from error
            cells = cells_of(column, shape, where, int(starts[group]))
            self._held = ((number, group), cells)
        return cells[offset - int(starts[group])], shape  # pyright: ignore[reportOptionalSubscript]

    def _file(self, number: int) -> tuple[pq.ParquetFile, np.ndarray, tuple[int, int, int] | None]:
        """A file, the first rows of its groups, and the shape of its tensors."""
        files: dict[int, Any] = vars(self).setdefault("_files", {})
        if number not in files:
            if len(files) >= _OPEN:
                files.clear()
            name, size = self._listing.files[number]
            where = _where(self._source, name)
            try:
                handle = self._place.open(name)
            except FileNotFoundError:
                raise unseen(f"{self._place.url}/{name}".rstrip("/")) from None
            if (found := handle.seek(0, 2)) != size:
                raise changed(where, size, found)
            file = _opened(handle, where)
            if footer_sha256(handle) != self._listing.digest.split()[number]:
                raise replaced(where)
            files[number] = (file, np.cumsum([0, *_counts(file)[:-1]]), form_of(file.schema_arrow, where))
        return files[number]


def footer_sha256(handle: IO[bytes]) -> str:
    """Of a Parquet file's footer, which says where every part of it lies."""
    end = handle.seek(-8, 2)
    length = min(int.from_bytes(handle.read(4), "little"), end)
    handle.seek(end - length)
    return hashlib.sha256(handle.read(length)).hexdigest()


def _counts(file: pq.ParquetFile) -> list[int]:
    """The rows of each row group."""
    return [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]


def _opened(handle: Any, where: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(handle, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"expected Parquet at {where}, found another file or one that is cut short ({error})"
        ) from error


def _where(source: str, name: str) -> str:
    return f"{source}: {name}" if name else source

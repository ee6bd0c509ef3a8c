"""Exports images to the file formats of other tools. An export is atomic and never overwrites a file.

`open_images` reads an export with the same pixels, labels and indices; an npz has no field for indices.
"""

from __future__ import annotations

import contextlib
import json
import logging
import zipfile
from collections.abc import Collection, Iterable, Iterator
from typing import IO, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dgflow.files.outputs import OpenNew, new_file, new_folder
from dgflow.images.pictures import encode_png
from dgflow.images.sources import Images

_log = logging.getLogger(__name__)

ExportFormat = Literal["npz", "png", "parquet"]

_AT_ONCE = 64  # number of images that are read together
_SHARD = 450 * 10**6  # bytes of pictures in a Parquet file; Hugging Face recommends files of at most 500 MB
_ROW_GROUP = 8 * 2**20  # bytes of pictures in a row group
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # zip's earliest date: equal images give equal files


class Row(NamedTuple):
    """An image with its index, label and log-ratio."""

    index: int
    image: np.ndarray  # uint8 [H, W, C]
    label: int | None
    log_ratio: float | None = None


def export_images(images: Images, out: str, format: ExportFormat) -> None:
    """Writes images to a path or an `s3://` URL.

    Args:
        format: `npz` is OpenAI's format, `arr_0` uint8 [N, H, W, C] and `arr_1` int64 labels. `png` is a
            folder or a `.zip` in EDM's layout. `parquet` is a folder that Hugging Face's `datasets` reads.

    Raises:
        ValueError: `out` exists, its name does not match the format, the images cannot be read, or for an npz
            their sizes differ.
        StoreError: S3 cannot be reached.
    """
    images.check()  # fail before hours of writing
    {"npz": write_npz, "png": write_png, "parquet": write_parquet}[format](images, out)


def write_npz(images: Images, out: str) -> None:
    """Writes an npz that `numpy.load` reads: `arr_0` uint8 [N, H, W, C] and, if there are labels, `arr_1`
    int64 [N], both uncompressed."""
    _check_suffix(out, (".npz",), "npz")
    shape, grey = _one_shape(images), 0
    with new_file(out) as file, zipfile.ZipFile(file, "w") as archive:
        with _member(archive, "arr_0.npy") as member:
            _write_header(member, "|u1", (images.rows, *shape))
            for row in _rows(images):
                if row.image.shape[:2] != shape[:2]:
                    raise ValueError(
                        f"expected images of one shape {shape} for an npz, found {row.image.shape} at row "
                        f"{row.index} of {images.source}; export png or parquet, or make them of one size"
                    )
                grey += row.image.shape[2] < shape[2]
                member.write(np.ascontiguousarray(np.broadcast_to(row.image, shape)).data)
        if images.labels is not None:
            with _member(archive, "arr_1.npy") as member:
                _write_header(member, "<i8", (images.rows,))
                member.write(images.labels.astype("<i8").tobytes())
    if grey:
        _log.warning(
            "%s: %s of %s pictures are grey: their channel is repeated to three",
            *(images.source, f"{grey:,}", f"{images.rows:,}"),
        )


def write_png(images: Images, out: str) -> None:
    """Writes pictures by index, such as `000000/000123.png`, in folders of a thousand, and labels in
    `dataset.json`. `out` is a local folder, or a `.zip` at any path or URL."""
    _check_suffix(out, ("", ".zip"), "png")
    if out.lower().endswith(".zip"):
        with new_file(out) as file, zipfile.ZipFile(file, "w") as archive:
            _write_pngs(images, lambda name: _member(archive, name))
        return
    if out.startswith("s3://"):
        raise ValueError(
            f"expected a .zip for png in S3, found {out}: many objects cannot be written atomically; add "
            ".zip, or use parquet"
        )
    with new_folder(out) as open_new:
        _write_pngs(images, open_new)


def write_parquet(images: Images, out: str) -> None:
    """Writes files `train-00000.parquet`, ... as `write_rows` does."""
    _check_suffix(out, ("",), "parquet")
    with new_folder(out) as open_new:
        write_rows(_rows(images), open_new, ["label"] if images.labels is not None else [])


def write_rows(rows: Iterable[Row], open_new: OpenNew, columns: Collection[str], folder: str = "") -> None:
    """Writes rows as Parquet that Hugging Face's `datasets` reads, in files `train-00000.parquet`, ... of at
    most 500 MB.

    The columns are `index`, `image` {bytes: a PNG, path}, and `label` and `log_ratio` if they are in
    `columns`.
    """
    schema = _schema(columns)
    with contextlib.ExitStack() as open_files:
        writer, shards, size = None, 0, 0
        for group in _row_groups(rows):
            group_size = sum(len(data) for _, data in group)
            if writer is None or size + group_size > _SHARD:
                open_files.close()
                file = open_files.enter_context(open_new(f"{folder}train-{shards:05d}.parquet"))
                # PNG is already compressed.
                options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
                writer = open_files.enter_context(pq.ParquetWriter(file, schema, **options))
                shards, size = shards + 1, 0
            size += group_size
            writer.write_table(_table(group, schema), row_group_size=len(group))


def _one_shape(images: Images) -> tuple[int, ...]:
    """Returns the shape of the first image, but with three channels if any image has three."""
    shape = images.read(0, 1)[0].shape
    for start in range(0, images.rows, _AT_ONCE):
        if shape[2] == 3:
            break
        shape = (*shape[:2], max(image.shape[2] for image in images.read(start, start + _AT_ONCE)))
    return shape


def _row_groups(rows: Iterable[Row]) -> Iterator[list[tuple[Row, bytes]]]:
    """Yields lists of rows with their encoded pictures, of about 8 MiB per list."""
    group, size = [], 0
    for row in rows:
        group.append((row, encode_png(row.image)))
        size += len(group[-1][1])
        if size >= _ROW_GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


def _rows(images: Images) -> Iterator[Row]:
    first = images.first_index or 0
    labels = images.labels
    for start in range(0, images.rows, _AT_ONCE):
        stop = min(start + _AT_ONCE, images.rows)
        block = images.read(start, stop)
        if len(block) != stop - start:
            raise ValueError(
                f"expected {stop - start} images at row {start} of {images.source}, found {len(block)}"
            )
        for row, image in enumerate(block, start):
            yield Row(first + row, image, None if labels is None else int(labels[row]))


def _check_suffix(out: str, suffixes: tuple[str, ...], format: str) -> None:
    name = out.rstrip("/").rpartition("/")[2].lower()
    found = next((each for each in (".npz", ".zip", ".parquet", ".png") if name.endswith(each)), "")
    if found not in suffixes:
        wanted = " or ".join("a folder" if not each else f"a name that ends in {each}" for each in suffixes)
        raise ValueError(f"expected {wanted} for {format}, found {name!r}; correct the name or the format")


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    return archive.open(zipfile.ZipInfo(name, _ZIP_DATE), "w", force_zip64=True)


def _write_header(member: IO[bytes], descr: str, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(member, {"descr": descr, "fortran_order": False, "shape": shape})


def _write_pngs(images: Images, open_new: OpenNew) -> None:
    labels = []
    for row in _rows(images):
        name = f"{row.index // 1000 * 1000:06d}/{row.index:06d}.png"
        with open_new(name) as file:
            file.write(encode_png(row.image))
        labels.append([name, row.label])
    if images.labels is not None:
        with open_new("dataset.json") as file:
            file.write(json.dumps({"labels": labels}).encode())


def _schema(columns: Collection[str]) -> pa.Schema:
    """Returns the schema, with the metadata by which `datasets` recognises the structs as images."""
    fields = [
        pa.field("index", pa.int64()),
        pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    ]
    features: dict[str, dict[str, str]] = {
        "index": {"dtype": "int64", "_type": "Value"},
        "image": {"_type": "Image"},
    }
    for name, dtype in (("label", "int64"), ("log_ratio", "float32")):
        if name in columns:
            fields.append(pa.field(name, pa.type_for_alias(dtype)))
            features[name] = {"dtype": dtype, "_type": "Value"}
    return pa.schema(fields, {"huggingface": json.dumps({"info": {"features": features}})})


def _table(group: list[tuple[Row, bytes]], schema: pa.Schema) -> pa.Table:
    columns = {
        "index": [row.index for row, _ in group],
        "image": [{"bytes": data, "path": f"{row.index:06d}.png"} for row, data in group],
        "label": [row.label for row, _ in group],
        "log_ratio": [row.log_ratio for row, _ in group],
    }
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)

"""A compact record of the images of a source: their names, locations and classes.

Two sources of the same content have the same record, wherever they are stored. `discovery` makes the record,
and `readers` read images by it.
"""

from __future__ import annotations

import io
import json
import socket
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Form = Literal["folder", "zip", "tar", "npz", "parquet", "cifar", "mnist-5k", "sklearn-digits"]

_META = b"dgflow"


@dataclass(frozen=True)
class Listing:
    """The images of a source in row order.

    Attributes: files: the files to open, as (path within the source, or "" for the source itself; size in
        bytes). Empty for a folder of pictures, whose rows are its files. digest: the digest of the content,
        if listing reads the content or its checksums anyway. Tars and Parquet (the footers) have one digest
        for each of `files`, separated by spaces, "-" for an uncompressed tar. columns: the location of each
        row, int64 [rows] each: `size`, the bytes of the picture; `file`, the number of its file in `files`;
        `offset`, its offset in that file, or its row in a Parquet file; `group`, its row group in Parquet,
        counted over all files; `stored`, its compressed bytes in a zip; `crc`, the checksum of a picture in a
        zip, or of the header in a tar.
    """

    form: Form
    rows: int
    files: tuple[tuple[str, int], ...] = ()
    names: pa.StringArray | None = None  # names of the pictures
    labels: np.ndarray | None = None  # int64 [rows]
    classes: tuple[str, ...] = ()  # the names of class folders, in the order of the labels
    digest: str = ""
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    # Not stored in the encoded record:
    split: str = ""  # the split that is read, if the source has others
    notes: tuple[str, ...] = ()  # remarks for the user, such as on labels that were left out

    def name(self, row: int) -> str:
        """Returns the name of a row for messages."""
        return f"image {row}" if self.names is None else self.names[row].as_py()

    def paths(self, rows: list[int]) -> list[str]:
        """Returns the names of the pictures in these rows."""
        assert self.names is not None
        return self.names.take(pa.array(rows, pa.int64())).to_pylist()

    def encoded(self) -> bytes:
        """Encodes the listing as a Parquet file. Equal listings give equal bytes with the same version of
        pyarrow."""
        columns: dict[str, pa.Array | np.ndarray] = {} if self.names is None else {"name": self.names}
        columns |= {} if self.labels is None else {"label": self.labels}
        columns |= self.columns
        if not columns:
            columns = {"row": np.arange(self.rows)}
        meta = {"form": self.form, "files": self.files, "classes": self.classes, "digest": self.digest}
        table = pa.table(columns).replace_schema_metadata({_META: json.dumps(meta)})
        out = io.BytesIO()
        pq.write_table(table, out, compression="zstd", write_page_checksum=True)
        return out.getvalue()

    @staticmethod
    def rows_in(data: bytes) -> int:
        """Returns the number of images in an encoded listing, from its footer alone."""
        return pq.read_metadata(io.BytesIO(data)).num_rows

    @classmethod
    def decoded(cls, data: bytes) -> Listing:
        """Decodes an encoded listing."""
        table = pq.read_table(io.BytesIO(data))
        meta = json.loads((table.schema.metadata or {})[_META])
        columns = {name: table.column(name) for name in table.column_names if name != "row"}
        names, labels = columns.pop("name", None), columns.pop("label", None)
        return cls(
            form=meta["form"],
            rows=table.num_rows,
            files=tuple((name, size) for name, size in meta["files"]),
            names=None if names is None else _one(names),  # pyright: ignore[reportArgumentType] (a column of strings)
            labels=None if labels is None else labels.to_numpy(),
            classes=tuple(meta["classes"]),
            digest=meta["digest"],
            columns={name: column.to_numpy() for name, column in columns.items()},
        )


def _one(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole


class Changed(ValueError):
    """Raised if the content of a source differs from its listing."""


def changed(where: str, expected: int, found: int) -> Changed:
    return Changed(
        f"expected {expected:,} bytes at {where}, as when it was listed, found {found:,}: the data changed "
        "since"
    )


def replaced(where: str) -> Changed:
    return Changed(
        f"expected {where} as when it was listed, found other content of the same size: the data changed "
        "since"
    )


def unseen(what: str) -> ValueError:
    """Returns the error for a file that cannot be reached from this host."""
    return ValueError(
        f"{socket.gethostname()} cannot reach {what}, which existed when it was listed: put the data where "
        "every node can reach it, such as s3://, or restore it"
    )

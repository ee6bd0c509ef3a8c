"""The images of a source as one compact record: the pictures, the location of each, and its class.

Two sources of the same content have the same record, wherever they are stored. `discovery` writes it,
`readers` read by it.
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

    `files` are the files to open (path within the source, "" for the source itself; bytes); empty for a
    folder of pictures, whose rows are its files. `digest` is the digest of the content if listing reads the
    content or its checksums anyway: for tars and Parquet (the footers) one for each of `files`, separated by
    spaces, "-" for an uncompressed tar. `columns` locate a row (int64 [rows] each): `size` bytes of the
    picture, `file` its number in `files`, `offset` in that file (its row, in Parquet), `group` of Parquet's
    row groups, counted over all files, `stored` bytes in a zip, and `crc` of a zip's picture or of a tar's
    header.
    """

    form: Form
    rows: int
    files: tuple[tuple[str, int], ...] = ()
    names: pa.StringArray | None = None  # names of the pictures
    labels: np.ndarray | None = None  # int64 [rows]
    classes: tuple[str, ...] = ()  # the names of class folders, in the order of the labels
    digest: str = ""
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    # Known when the source is listed, and not stored in the file:
    split: str = ""  # the split that is read, if the source has others
    notes: tuple[str, ...] = ()  # remarks for people, such as labels that were left out

    def name(self, row: int) -> str:
        """Returns the name of a row in messages."""
        return f"image {row}" if self.names is None else self.names[row].as_py()

    def paths(self, rows: list[int]) -> list[str]:
        """Returns the names of the pictures in these rows."""
        assert self.names is not None
        return self.names.take(pa.array(rows, pa.int64())).to_pylist()

    def encoded(self) -> bytes:
        """Encodes the listing as a Parquet file; equal listings give equal bytes with the same version of
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
        """Returns the number of images in a file that `encoded` wrote, from its footer alone."""
        return pq.read_metadata(io.BytesIO(data)).num_rows

    @classmethod
    def decoded(cls, data: bytes) -> Listing:
        """Decodes the listing in a file that `encoded` wrote."""
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
        f"{socket.gethostname()} cannot see {what}, which was there when it was listed: put the data where "
        "every node sees it, such as s3://, or bring it back"
    )

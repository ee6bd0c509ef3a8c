"""Rows of a committed shard without the rest of its file: the row groups of a Parquet file that hold them."""

from __future__ import annotations

from collections.abc import Sequence

from dgflow.files.locations import locate
from dgflow.store.receipts import ManifestEntry, Receipt
from dgflow.store.shards import Columns, decode_rows
from dgflow.store.step_store import StepStore


def read_range(
    step_store: StepStore,
    entry: Receipt | ManifestEntry,
    start: int,
    stop: int,
    columns: Sequence[str] | None = None,
) -> Columns:
    """The samples [start, stop) of a shard, which holds them, all columns or those named.

    All columns of a whole shard are compared with its receipt. Of a part of one only the row groups and the
    columns that hold it are read, and Parquet's page checksums are verified.

    Raises:
        CorruptObject: the shard is missing or damaged.
        ValueError: it has no such column.
    """
    assert entry.start is not None and entry.stop is not None
    url = step_store.store.url
    whole = columns is None and (start, stop) == (entry.start, entry.stop)
    if whole or not entry.key.endswith(".parquet") or "memory://" in url:
        rows = step_store.read_shard(entry, columns)
        return {name: values[start - entry.start : stop - entry.start] for name, values in rows.items()}
    try:
        with locate(url).open(entry.key) as file:
            return decode_rows(file, start - entry.start, stop - entry.start, columns)
    except (FileNotFoundError, ValueError) as error:
        step_store.read_shard(entry, columns)  # says what is wrong with it
        raise error

"""Read rows of a committed shard by fetching only the row groups of the Parquet file that hold them."""

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
    """Read the samples [start, stop) of the shard that holds them: all columns, or those named.

    Reading all columns of a whole shard verifies the digest in its receipt. A partial read fetches only the
    needed row groups and columns, and verifies Parquet's page checksums.

    Raises:
        CorruptObject: the shard is missing or damaged.
        ValueError: the shard lacks a column.
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
        step_store.read_shard(entry, columns)  # raises with the cause
        raise error

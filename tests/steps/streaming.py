"""Sealed slices of rows made by hand, for trainings and streams."""

from __future__ import annotations

import numpy as np

from dgflow.specs.bound import BoundRows
from dgflow.store.objects import ObjectStore
from dgflow.store.shards import Columns
from dgflow.store.step_store import StepStore


def sealed(
    store: ObjectStore,
    columns: Columns,
    shard_size: int,
    start: int = 0,
    stop: int | None = None,
    name: str = "0",
) -> BoundRows:
    """Seals the rows [start, stop) of these columns, in shards; `name` is one hex digit, to distinguish
    several in one store."""
    steps, rows = StepStore(store, "import-images", name * 64), len(columns["label"])
    stop = rows if stop is None else stop
    keys = []
    for number in range(-(-rows // shard_size)):
        low, high = number * shard_size, min(rows, (number + 1) * shard_size)
        part = {name: values[low:high] for name, values in columns.items()} | {"index": np.arange(low, high)}
        steps.write_shard(
            number, part, start=low, stop=high, inputs={}, seconds=0.0, device="cpu", versions={}
        )
        keys.append(steps.done("shards", {})[number])
    return BoundRows(
        steps, steps.seal(start, stop, {}, keys[start // shard_size : -(-stop // shard_size)]), start, stop
    )


def numbered(rows: int) -> Columns:
    """Returns images of one pixel whose first two colours encode the row, of one class."""
    number = np.arange(rows)
    image = np.stack([number // 256, number % 256, number % 256], axis=-1).astype(np.uint8)[:, None, None, :]
    return {"label": np.zeros(rows, dtype=np.int64), "image": image}

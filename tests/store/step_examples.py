"""A small step and its rows, for the tests of `StepStore`."""

from typing import Any

import numpy as np

from dgflow.store.identity import fingerprint
from dgflow.store.objects import ObjectStore
from dgflow.store.receipts import Receipt
from dgflow.store.shards import Columns
from dgflow.store.step_store import StepStore

DOCUMENT: dict[str, Any] = {"kind": "generate", "fields": {"seed": 1, "sampler": {"steps": 18}}}
INPUTS = {"score": "0" * 64}
OTHER_INPUTS = {"score": "1" * 64}
ROWS = 4  # in each shard


def step(store: ObjectStore, document: dict[str, Any] | None = None) -> StepStore:
    return StepStore(store, "generate", fingerprint(document or DOCUMENT))


def rows(number: int, salt: int = 0) -> Columns:
    """The rows of a shard; `salt` stands for what a computation that is not deterministic makes different."""
    random = np.random.default_rng([number, salt])
    return {
        "index": np.arange(number * ROWS, (number + 1) * ROWS),
        "image": random.integers(0, 256, (ROWS, 2, 2, 3), dtype=np.uint8),
        "log_ratio": random.normal(size=ROWS).astype(np.float32),
    }


def write(
    steps: StepStore,
    number: int,
    inputs: dict[str, str] | None = None,
    salt: int = 0,
    format: Any = "parquet",
) -> Receipt:
    return steps.write_shard(
        number,
        rows(number, salt),
        start=number * ROWS,
        stop=(number + 1) * ROWS,
        inputs=INPUTS if inputs is None else inputs,
        format=format,
        seconds=1.5,
        device="cpu",
        versions={"torch": "2.14.1"},
        metrics={"nfe": 35},
    )


def same_rows(found: Columns, expected: Columns) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == values.dtype and np.array_equal(found[name], values)
        for name, values in expected.items()
    )

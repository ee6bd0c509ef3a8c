"""Two generators that read nothing, and what asks for both: steps that are at work at once."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dgflow.specs.bound import Bound
from dgflow.specs.step import ResultStep, SampleStep, Slice, Spread
from dgflow.store.identity import canonical_json
from dgflow.store.objects import ObjectStore
from dgflow.store.shards import Columns


class Written(SampleStep):
    """Samples that are their own index; a shard's number is written into `BEGUN` when it begins.

    The shard `broken` raises.
    """

    shard_size: int = 2
    seed: int = 0
    broken: int = -1

    def shard_builder(self, inputs: Bound) -> Callable[[int, int], Columns]:
        del inputs

        def rows(start: int, stop: int) -> Columns:
            number = start // self.shard_size
            if begun := os.environ.get("BEGUN"):
                with Path(begun).open("a") as file:
                    file.write(f"{self.seed} {number}\n")
            if number == self.broken:
                raise ValueError("this one is broken")
            return {"index": np.arange(start, stop), "label": np.full(stop - start, self.seed)}

        return rows


class Both(ResultStep):
    """Counts the rows of two slices."""

    first: Slice
    second: Slice

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        del inputs, spread, store
        return canonical_json({"rows": self.first.rows + self.second.rows}).encode()

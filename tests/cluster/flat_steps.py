"""A generator that makes only an index, so that the measurement is the cost of a shard besides its
samples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dgflow.specs.bound import Bound
from dgflow.specs.step import ResultStep, SampleStep, Slice, Spread
from dgflow.store.identity import canonical_json
from dgflow.store.objects import ObjectStore
from dgflow.store.shards import Columns


class Nothing(SampleStep):
    """Samples that are their own index."""

    shard_size: int = 2

    def shard_builder(self, inputs: Bound) -> Callable[[int, int], Columns]:
        del inputs
        return lambda start, stop: {
            "index": np.arange(start, stop),
            "label": np.zeros(stop - start, np.int64),
        }


class Counted(ResultStep):
    """The number of samples; this step reads them."""

    samples: Slice

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        del inputs, spread, store
        return canonical_json({"rows": self.samples.rows}).encode()


def target(shards: int) -> Counted:
    step = Nothing()
    return Counted(samples=step[: shards * step.shard_size])

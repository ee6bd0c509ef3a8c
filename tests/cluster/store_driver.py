"""A run whose store fails: `store_driver.py ROOT SOURCE` takes 40 shards of samples, made by its own Ray with
two workers."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tiny
from cluster.cluster_driver import Taken

from dgflow import Generate, Heun
from dgflow.engine.execute import execute
from dgflow.runtime.placement import Placement
from dgflow.runtime.progress import Progress
from dgflow.store.open import open_store

SHARDS = 40


def samples(source: Path) -> Generate:
    """Returns shards that take some tenths of a second each."""
    return Generate(score=tiny.score(source).last(), sampler=Heun(steps=30), seed=1, shard_size=8)


def target(source: Path) -> Taken:
    return Taken(samples=samples(source)[: 8 * SHARDS])


if __name__ == "__main__":
    root, source = sys.argv[1:]
    execute(target(Path(source)), open_store(root), Placement(workers=2), Progress())

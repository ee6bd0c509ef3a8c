"""A driver to be killed: `driver.py WHAT ROOT SOURCE` completes a toy step in a root, with its own Ray and
worker processes."""

import os
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tiny
from cluster.flat_steps import Counted

from dgflow.engine.execute import execute
from dgflow.runtime.placement import Placement
from dgflow.runtime.progress import Progress
from dgflow.specs.step import Step
from dgflow.store.open import open_store

EPOCHS = 40  # of the trainings that are killed: each takes some 0.2 s
SHARDS = 60


def target(what: str, source: Path) -> Step:
    """Returns the step that WHAT names: `score`, two epochs of the score network, `long`, many of them, or
    `samples`, 60 shards of its samples."""
    if what == "samples":
        return Counted(samples=tiny.fakes(source, steps=8)[: 8 * SHARDS])
    return tiny.score(source, epochs=EPOCHS) if what == "long" else tiny.score(source)


if __name__ == "__main__":
    what, root, source = sys.argv[1:]
    if stale := os.environ.get("STALE_SECONDS"):  # age of another driver's heartbeat
        from dgflow.runtime.training import fit, lease

        lease.STALE_SECONDS = float(stale)
        fit.Lease = partial(lease.Lease, every=float(stale) / 5)
    execute(target(what, Path(source)), open_store(root), Placement(workers=2, train_workers=2), Progress())

"""The job of the tests: `slurm_recipe.py FOLDER ROOT` makes shards, each of which leaves the name of its host
in the folder and waits for a file `go`."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cluster.flat_steps import Counted, Nothing

from dgflow.engine.execute import execute
from dgflow.runtime.placement import Placement
from dgflow.runtime.progress import Progress
from dgflow.specs.bound import Bound
from dgflow.store.open import open_store
from dgflow.store.shards import Columns

SHARDS = 12


class Held(Nothing):
    hold: str

    def shard_builder(self, inputs: Bound) -> Callable[[int, int], Columns]:
        build, folder = super().shard_builder(inputs), Path(self.hold)

        def held(start: int, stop: int) -> Columns:
            (folder / socket.gethostname()).touch()
            while not (folder / "go").exists():
                time.sleep(0.1)
            return build(start, stop)

        return held


def samples(hold: str) -> Held:
    return Held(hold=hold)


if __name__ == "__main__":
    folder, root = sys.argv[1:]
    step = samples(folder)
    execute(Counted(samples=step[: SHARDS * step.shard_size]), open_store(root), Placement(), Progress())

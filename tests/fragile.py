"""A step whose worker is killed while it makes the second shard for the first time."""

import os
import signal
from pathlib import Path

from dgflow import ImportImages


class Fragile(ImportImages):
    """Images of `tiny`; `TRAP` names the file that tells whether a worker has died already."""

    def shard_builder(self, inputs):
        build = super().shard_builder(inputs)

        def rows(start, stop):
            trap = Path(os.environ["TRAP"])
            if start and not trap.exists():
                trap.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            return build(start, stop)

        return rows

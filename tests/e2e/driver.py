"""A driver to be killed: `driver.py WHAT ROOT SOURCE` completes a toy step in a root, with Ray and worker
processes of its own."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tiny

from dgflow.engine.execute import execute
from dgflow.runtime.placement import Placement
from dgflow.runtime.progress import Progress
from dgflow.specs.step import Step
from dgflow.steps.training.train_discriminator import TrainDiscriminator
from dgflow.store.open import open_store

EPOCHS = 40  # of the trainings that are killed: each takes some 0.2 s
SHARDS = 60


def target(what: str, source: Path) -> Step:
    """The step that WHAT names.

    `score`: two epochs of the score network; `long`: many; `samples`: 60 shards of its samples, taken by a
        discriminator that learns for
    one epoch.
    """
    if what == "score":
        return tiny.score(source)
    if what == "long":
        return tiny.score(source, epochs=EPOCHS)
    fakes = tiny.fakes(source, steps=8)
    return TrainDiscriminator(
        real=tiny.real(source)[:64],
        fake=fakes[: 8 * SHARDS],
        network=tiny.ENCODER,
        epochs=1,
        batch_size=16,
        held_out=0.25,
    )


if __name__ == "__main__":
    what, root, source = sys.argv[1:]
    execute(target(what, Path(source)), open_store(root), Placement(workers=2, train_workers=2), Progress())

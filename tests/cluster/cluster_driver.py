"""A driver on a cluster's head, to be disturbed: `cluster_driver.py WHAT ROOT SOURCE [WORKERS]` completes a
toy step."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tiny

from dgflow import DiscriminatorGuidance, Evaluate, Generate, Heun, TrainClassifier, TrainScore
from dgflow.engine.execute import execute
from dgflow.runtime.placement import Placement
from dgflow.runtime.progress import Progress
from dgflow.specs.bound import Bound
from dgflow.specs.step import ResultStep, Slice, Spread, Step
from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store

if TYPE_CHECKING:
    from dgflow.runtime.training.worker import TrainingJob

SHARDS = 20
EPOCHS = 80  # of the training that is disturbed


class Taken(ResultStep):
    """Reads a slice, so that it is made and sealed, and computes almost nothing from it."""

    samples: Slice

    @property
    def title(self) -> str:
        return "taken"

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        del spread, store
        return inputs.items["samples"].digest.encode()


def samples(source: Path) -> Generate:
    """Returns shards that take a few tenths of a second each, so that most faults hit one in progress."""
    return Generate(score=tiny.score(source).last(), sampler=Heun(steps=40), seed=1, shard_size=8)


def training(source: Path) -> TrainScore:
    return tiny.score(source, epochs=EPOCHS)


def long(source: Path) -> TrainScore:
    """Returns one epoch of 1,000 steps: half a minute or more."""
    return tiny.score(source, epochs=1).model_copy(update={"images_per_epoch": 16 * 1000})


def guided(source: Path) -> Generate:
    guidance = DiscriminatorGuidance(discriminator=tiny.discriminator(source, epochs=1).best(), weight=1.0)
    return samples(source).model_copy(update={"sampler": Heun(steps=20), "guidance": (guidance,)})


def table(source: Path) -> Evaluate:
    judge = TrainClassifier(real=tiny.real(source)[:64], network=tiny.JUDGE, epochs=1, batch_size=16)
    arms = {"unguided": (samples(source)[:96],), "guided": (guided(source)[:96],)}
    return Evaluate(arms=arms, reference=tiny.real(source)[:96], features=judge.last())


def target(what: str, source: Path) -> Step:
    """Returns the step that WHAT names.

    `samples`: 20 shards, by workers with a GPU each if there are GPUs; `training`: many epochs of the score
    network that makes them, by up to three workers; `long`: one long epoch of that; `table`: samples and
    guided samples compared.
    """
    made: dict[str, Callable[[], Step]] = {
        "samples": lambda: Taken(samples=samples(source)[: 8 * SHARDS]),
        "training": lambda: training(source),
        "long": lambda: long(source),
        "table": lambda: table(source),
    }
    return made[what]()


def soon(job: TrainingJob) -> None:
    """A worker of a training that may grow after 5 s instead of a minute.

    A worker that is alone waits after an epoch for another host, lest the training ends before one joins.
    """
    from dgflow.runtime.training import worker

    room_for_more = worker.room_for_more

    def joined(job: TrainingJob, workers: int) -> bool:
        while not (room := room_for_more(job, workers)) and workers == 1:
            time.sleep(0.2)
        return room

    worker.GROWTH_SECONDS, worker.room_for_more = 5.0, joined
    worker.work(job)


if __name__ == "__main__":
    from dgflow.runtime.training import fit as train

    what, root, source, *workers = sys.argv[1:]
    train.work = soon
    placement = Placement(
        workers=int(workers[0]) if workers else None,
        train_workers=3 if what in ("training", "long") else 1,  # one worker gives the same bits on any host
        num_gpus=0 if what in ("training", "long") else None,
    )
    execute(target(what, Path(source)), open_store(root), placement, Progress())

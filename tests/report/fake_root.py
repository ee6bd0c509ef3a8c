"""A finished digits-like run in a memory store, written by the real store with made-up numbers: for tests of
readers."""

import itertools
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dgflow import (
    ADMEncoder,
    DiscriminatorGuidance,
    Evaluate,
    Generate,
    Heun,
    ImportImages,
    SongUNet,
    TrainClassifier,
    TrainDiscriminator,
    TrainScore,
)
from dgflow.engine.plan import plan, step_plan
from dgflow.engine.root import Root
from dgflow.specs.graph import graph
from dgflow.specs.step import SampleStep, Slice
from dgflow.specs.train_step import TrainStep
from dgflow.store.identity import canonical_json, sha256_hex
from dgflow.store.memory import MemoryStore
from dgflow.store.objects import ObjectStore
from dgflow.store.step_store import StepStore

UNFINISHED = "generate seed 102, guided by discriminator"  # a step without one of its shards
SHARD = 100
SEEDS = (101, 102, 103)
FID = {
    "unguided": [39.3, 38.4, 38.9],
    "guided": [29.1, 29.9, 28.7],
    "guided-2": [30.2, 30.0, 31.1],
    "guided-3": [28.2, 28.8, 28.5],
}
FLOOR = {"fid": 3.4, "is": 9.71, "precision": 0.912, "recall": 0.934}
VERSIONS = {"python": "3.11.9", "torch": "2.9.0", "dgflow": "0.1.0"}
_names = itertools.count()


def write_source(path: Path) -> str:
    """Writes the file of images that a recipe names: its existence is checked, its content is not read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, image=np.zeros((1, 16, 16), np.uint8), label=np.zeros(1))
    return str(path)


def row_of(rows: Iterable[dict[str, Any]], title: str) -> dict[str, Any]:
    (row,) = [row for row in rows if row["title"] == title]
    return row


def steps_of(target: Evaluate, store: MemoryStore, title: str = UNFINISHED) -> StepStore:
    (made,) = [made for made in plan(target, store) if made.step.title == title]
    return Root(store).step_store(made.step)


def new_store() -> MemoryStore:
    return MemoryStore(f"fake-root-{next(_names)}")


def recipe(
    *,
    source: str = "digits.npz",
    discriminators: int = 1,
    samples: int = 200,
    seeds: Iterable[int] = SEEDS,
    shard_size: int = SHARD,
) -> Evaluate:
    """Returns a small digits recipe; `source` is a file of images that has to exist."""
    real = ImportImages(source=source, num_classes=10, image_size=16, channels=1, shard_size=shard_size)
    train, reference = real[:150], real[150:300]
    network = SongUNet(
        model_channels=16, channel_mult=(1, 2), num_blocks=2, attn_resolutions=(8,), dropout=0.0
    )
    score = TrainScore(real=train, network=network, epochs=24).last()
    judge = TrainClassifier(real=train, network=ADMEncoder(model_channels=32, pool="adaptive"), epochs=8)
    fake = Generate(score=score, sampler=Heun(), seed=1, shard_size=shard_size)[:200]

    def arm(*guidance: DiscriminatorGuidance):
        return tuple(
            Generate(score=score, sampler=Heun(), guidance=guidance, seed=seed, shard_size=shard_size)[
                :samples
            ]
            for seed in seeds
        )

    arms = {"unguided": arm()}
    for seed in range(discriminators):
        disc = TrainDiscriminator(
            real=train, fake=fake, network=ADMEncoder(model_channels=32), epochs=20, seed=seed
        )
        arms["guided" if not seed else f"guided-{seed + 1}"] = arm(
            DiscriminatorGuidance(discriminator=disc.best(), weight=2.0)
        )
    return Evaluate(arms=arms, reference=reference, features=judge.last(), floor=train)


def digits(count: int, seed: int) -> np.ndarray:
    """Returns images uint8 [n, 16, 16, 1] of a few random strokes."""
    share = np.linspace(0, 1, 16)
    bezier = np.stack(
        [(1 - share) ** 3, 3 * share * (1 - share) ** 2, 3 * share**2 * (1 - share), share**3], axis=1
    )
    path = bezier @ np.random.Generator(np.random.PCG64(seed)).uniform(
        3, 13, (count, 4, 2)
    )  # [n, 16, (y, x)]
    y, x = (np.exp(-((np.arange(16) - path[..., axis, None]) ** 2) / 0.9) for axis in (0, 1))
    return (135 * np.einsum("npy,npx->nyx", y, x)).clip(0, 255).astype(np.uint8)[..., None]


def fill(
    target: Evaluate, store: ObjectStore, leave_out: Iterable[tuple[str, int]] = (), took: float = 2.0
) -> None:
    """Makes every step of `target`, except the parts in `leave_out` (the step's title and the part's number)
    and what needs them.

    Receipts say that the first shard took `took` seconds, each further one a second more.
    """
    skipped, root, known = set(leave_out), Root(store), {}
    for node in graph(target):
        made = step_plan(root, node, known)
        if made.bound is None or made.complete:
            continue
        step, steps, inputs = made.step, root.step_store(made.step), made.bound.digests
        steps.declare(step.document())
        for number in made.missing:
            if (step.title, number) in skipped:
                continue
            if isinstance(step, SampleStep):
                start, stop = step.shard_range(number)
                index = np.arange(start, stop, dtype=np.int64)
                columns = {
                    "index": index,
                    "label": index % 10,
                    "image": digits(stop - start, seed=getattr(step, "seed", 0) * 1000 + number),
                }
                steps.write_shard(
                    number,
                    columns,
                    start=start,
                    stop=stop,
                    inputs=inputs,
                    seconds=took + number,
                    device="cpu",
                    versions=VERSIONS,
                )
            else:
                metrics, data = (
                    (epoch_metrics(step, number), b"weights")
                    if isinstance(step, TrainStep)
                    else ({}, result_data(target))
                )
                suffix = "safetensors" if isinstance(step, TrainStep) else ".json"
                digest = sha256_hex(f"{step.name}/{number}".encode())
                steps.commit(
                    made.folder,
                    number,
                    data,
                    suffix=suffix,
                    rows_sha256=digest,
                    inputs=inputs,
                    seconds=1.5,
                    device="cpu",
                    versions=VERSIONS,
                    metrics=metrics,
                )
        if isinstance(step, SampleStep):
            done = steps.done("shards", inputs)
            for part in made.node.slices:
                numbers = part.shards
                if all(number in done for number in numbers):
                    steps.seal(part.start, part.stop, inputs, [done[number] for number in numbers])
        step_plan(root, node, known)


def epoch_metrics(step: TrainStep, epoch: int) -> dict:
    """Returns falling losses, and a discriminator that starts to overfit after epoch 12."""
    if step.kind == "train-score":
        return {"train_loss": 0.2 + 0.9 / epoch, "held_out_loss": 0.22 + 0.8 / epoch, "workers": 2}
    if step.kind == "train-classifier":
        return {
            "train_loss": 2.2 * math.exp(-0.7 * epoch),
            "held_out_loss": 0.05 + 2 * math.exp(-epoch),
            "held_out_accuracy": 1 - 0.5 / epoch**2,
        }
    edges = [0.0447 * (80 / 0.0447) ** (level / 8) for level in range(9)]
    by_sigma = [
        {
            "sigma": [low, high],
            "n": 30,
            "loss": 0.69 - 0.4 * math.exp(-level / 2),
            "accuracy": 0.5 + 0.4 * math.exp(-level / 2),
            "calibration_error": 0.02 + 0.03 * math.exp(-level),
        }
        for level, (low, high) in enumerate(itertools.pairwise(edges))
    ]
    held_out = 0.69 - 0.02 * min(epoch, 12) + 0.012 * max(0, epoch - 12)
    return {
        "train_loss": 0.69 - 0.022 * epoch,
        "held_out_loss": held_out,
        "held_out_accuracy": 0.6,
        "by_sigma": by_sigma,
        "workers": 2,
    }


def result_data(target: Evaluate) -> bytes:
    """Returns the content that Evaluate commits, with made-up numbers."""

    def over(values: list[float]) -> dict:
        return {
            "mean": statistics.fmean(values),
            "spread": statistics.stdev(values) if len(values) > 1 else None,
            "per_seed": values,
        }

    arms = {}
    for name, arm in target.arms.items():
        fid = FID[name][: len(arm)]
        others = {
            "is": [8.9 - value / 100 for value in fid],
            "precision": [0.9 - value / 200 for value in fid],
            "recall": [0.6 + value / 500 for value in fid],
        }
        arms[name] = {"fid": over(fid)} | {metric: over(values) for metric, values in others.items()}
        arms[name] |= {"n": arm[0].rows, "seeds": [getattr(part.step, "seed", None) for part in arm]}
    assert isinstance(target.reference, Slice)
    floor = None if target.floor is None else FLOOR | {"n": target.floor.rows}
    reference = {
        "n": target.reference.rows,
        "digest": "0" * 64,
        "features": target.features.step.fingerprint,
        "k": 3,
    }
    return canonical_json({"arms": arms, "floor": floor, "reference": reference}).encode()

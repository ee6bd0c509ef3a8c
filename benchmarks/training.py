"""Time that a discriminator's training waits for data: `python benchmarks/training.py [--systems digits
latents pixels] [--stores disk s3]`.

The benchmark writes random rows of published shapes to shards on the local disk and on a real S3 server on
loopback. For each system it runs two measurements:

- the training loop itself for some steps, with the share of its time that it waited for data;
- the reader alone, at the published batch, without training.

The second measures what the first cannot on a CPU: how fast a network may be before it waits 5 % of its time
(rows/s of wall-clock time depend on the machine's load; the CPU time per row does not). The figures for an
H100 are estimates: `--utilisation` of its 989 TFLOP/s in bfloat16, and at least 8 us for each operation that
is launched.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from dgflow import ADMEncoder, Encode, Generate, ImportImages, TrainClassifier, TrainDiscriminator, official
from dgflow.engine.root import Root
from dgflow.runtime.training.loop import train
from dgflow.specs.bound import Bound, BoundRows, BoundWeights
from dgflow.specs.training_task import TrainingTask
from dgflow.steps.training.stream import Stream
from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store
from dgflow.store.shards import Columns, rows_sha256
from dgflow.store.step_store import StepStore
from dgflow.weights.tensors import save_weights

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from seaweed import seaweed

H100 = 989e12  # FLOP/s, dense bfloat16
LAUNCH = 8e-6  # seconds that PyTorch takes per operation, whatever its size


class System(NamedTuple):
    side: int
    channels: int
    head: ADMEncoder
    features: ADMEncoder | None
    encoded: bool  # real rows are means and standard deviations, fake ones latents; else all are images
    batch: int  # batch size that one CPU core can train
    published: int
    shard: int


DIGITS = ADMEncoder(
    model_channels=32,
    channel_mult=(1, 1, 2),
    num_res_blocks=1,
    attention_resolutions=(),
    num_head_channels=32,
)
LATENT = ADMEncoder(channel_mult=(1, 2, 3), attention_resolutions=(1, 2, 4), time="ddpm-linear")
PIXEL = ADMEncoder(
    channel_mult=(1, 2, 3, 4), num_res_blocks=4, attention_resolutions=(2, 4, 8), time="cosine-vp"
)
SYSTEMS = {
    "digits": System(16, 1, DIGITS, None, encoded=False, batch=64, published=64, shard=500),
    "latents": System(32, 4, ADMEncoder(), LATENT, encoded=True, batch=8, published=1024, shard=250),
    "pixels": System(
        64, 3, ADMEncoder(num_res_blocks=4), PIXEL, encoded=False, batch=4, published=128, shard=500
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--stores", nargs="+", default=["disk", "s3"], choices=["disk", "s3"])
    parser.add_argument("--rows", type=int, default=8_000, help="number of real rows, and of fake rows")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="approximate time of the measured training"
    )
    parser.add_argument("--utilisation", type=float, default=0.3, help="assumed share of an H100's FLOP/s")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}; one thread trains"
    )
    for kind in options.stores:
        with store_of(kind) as store:
            for name in options.systems:
                measure(name, SYSTEMS[name], kind, store, options)


@contextmanager
def store_of(kind: str) -> Iterator[ObjectStore]:
    with tempfile.TemporaryDirectory() as folder:
        if kind == "disk":
            yield open_store(folder)
            return
        with seaweed(Path(folder)) as client:
            os.environ |= {name: value for name, value in client.items() if name != "BUCKET_URL"}
            yield open_store(client["BUCKET_URL"])


def measure(name: str, system: System, kind: str, store: ObjectStore, options: argparse.Namespace) -> None:
    inputs, bytes_a_row = bound(system, store, options.rows)
    step = discriminator(system, options.rows, system.batch)
    task = step.training_task(inputs)
    flops, launches = operations(task)
    seconds = seconds_a_step(task)
    task.steps_per_epoch = max(2, round(options.seconds / seconds))
    steps = Root(store).step_store(step)
    train(task, steps, {}, epochs=2)  # the first epoch warms up
    receipt = steps.receipt(steps.done("epochs", {})[2])
    rate, waited = task.steps_per_epoch / receipt.seconds, receipt.metrics["data_wait"]
    rows, processor = reader_alone(system, inputs, options.rows)
    h100 = system.published / max(flops * system.published / (H100 * options.utilisation), launches * LAUNCH)
    print(
        f"{name:8}{kind:5} batch {system.batch}: {rate:.2f} steps/s ({rate * system.batch:.0f} rows/s), "
        f"waits {waited:.2%}\n"
        f"{'':13} reader alone, batch {system.published}: {rows:,.0f} rows/s, "
        f"{rows * bytes_a_row / 1e6:,.0f} MB/s as stored; networks up to {rows / 0.95:,.0f} rows/s wait "
        f"below 5 %; {processor * 1e6:.0f} us of CPU per row\n"
        f"{'':13} {flops / 1e9:.1f} GFLOP per row, {launches:,} operations per step: an H100 would do "
        f"about {h100:,.0f} rows/s, estimated",
        flush=True,
    )


def discriminator(system: System, rows: int, batch: int) -> TrainDiscriminator:
    """Returns the step, whose training runs on the inputs that `bound` commits."""
    if system.encoded:
        photos = ImportImages(source="unused.npz", num_classes=1000, image_size=256)
        real = Encode(images=photos[:rows], vae=official("sd-vae-ft-ema")).all()
        fake = Generate(score=official("dit-xl-2-256"))[:rows]
    else:
        channels = 1 if system.channels == 1 else 3
        real = fake = ImportImages(
            source="unused.npz", num_classes=1000, image_size=system.side, channels=channels
        )[:rows]
    features = (
        TrainClassifier(real=real, network=system.features, noise="linear_vp").last()
        if system.features
        else None
    )
    return TrainDiscriminator(
        real=real,
        fake=fake,
        network=system.head,
        features=features,
        batch_size=batch,
        held_out=0.0,
        learning_rate=3e-4,
    )


def bound(system: System, store: ObjectStore, rows: int) -> tuple[Bound, float]:
    """Commits random rows and weights; returns them and the average bytes of a real and a fake row."""
    random = np.random.default_rng(0)
    shape = (system.channels, system.side, system.side)

    def real(count: int) -> Columns:
        if not system.encoded:
            return fake(count)
        names = ("mean", "std", "mean_flipped", "std_flipped")
        return {
            name: random.standard_normal((count, *shape), np.float32).astype(np.float16) for name in names
        }

    def fake(count: int) -> Columns:
        if system.encoded:
            return {"latent": random.standard_normal((count, *shape), np.float32).astype(np.float16)}
        return {
            "image": random.integers(0, 256, (count, system.side, system.side, system.channels), np.uint8)
        }

    items: dict[str, BoundRows | BoundWeights] = {}
    for name, make, digit in (("real", real, "0"), ("fake", fake, "1")):
        steps = StepStore(store, f"{name}-{system.side}", digit * 64)
        for number, start in enumerate(range(0, rows, system.shard)):
            stop = min(rows, start + system.shard)
            columns = {
                "index": np.arange(start, stop),
                "label": random.integers(0, 1000, stop - start),
                **make(stop - start),
            }
            steps.write_shard(
                number, columns, start=start, stop=stop, inputs={}, seconds=0.0, device="cpu", versions={}
            )
        manifest = steps.seal(0, rows, {}, [key for _, key in sorted(steps.done("shards", {}).items())])
        items[name] = BoundRows(steps, manifest, 0, rows)
    stored = sum(
        entry.bytes
        for item in items.values()
        if isinstance(item, BoundRows)
        for entry in item.manifest.entries
    )
    step = discriminator(system, rows, system.batch)
    if step.features is not None:
        classifier = step.features.step
        torch.manual_seed(0)
        weights = classifier.build(Bound()).state_dict()
        digest = rows_sha256({name: value.numpy() for name, value in weights.items()})
        steps = Root(store).step_store(classifier)
        data = save_weights(weights)
        receipt = steps.commit(
            "epochs",
            1,
            data,
            suffix=".safetensors",
            rows_sha256=digest,
            inputs={},
            seconds=0.0,
            device="cpu",
            versions={},
        )
        items["features"] = BoundWeights(classifier, steps, receipt, Bound())
    return Bound(items), stored / (2 * rows)


class Launches(TorchDispatchMode):
    """Counts operations."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **kwargs or {})


def operations(task: TrainingTask) -> tuple[int, int]:
    """Returns FLOP per row, and operations per step, forward and backward, without the optimiser, which has
    one operation for all weights."""
    with FlopCounterMode(display=False) as flops, Launches() as launches:
        task.loss(task.network, torch.arange(task.batch_size), 0).mean().backward()
    return flops.get_total_flops() // task.batch_size, launches.count


def seconds_a_step(task: TrainingTask) -> float:
    began = time.monotonic()
    task.loss(task.network, torch.arange(task.batch_size), 0).mean().backward()
    return time.monotonic() - began


def reader_alone(system: System, inputs: Bound, rows: int) -> tuple[float, float]:
    """Measures rows per second of two streams without training, and seconds of CPU per row. The random draws
    of each row are not included: a training makes them on the network's device."""
    step = discriminator(system, rows, system.published)
    nowhere = torch.device("meta")
    streams = [
        Stream(
            step, inputs, name, num_classes=1000, device=nowhere, slots=np.arange(first, system.published, 2)
        )
        for first, name in enumerate(("real", "fake"))
    ]
    slots, steps = torch.arange(system.published), 2 * rows // system.published  # one pass over both
    began = processor = 0.0
    for number in range(2 * steps):  # the second pass is measured
        if number == steps:
            began, processor = time.monotonic(), time.process_time()
        for first, stream in enumerate(streams):
            stream.take(number, slots[first::2])
    seconds, processor = time.monotonic() - began, time.process_time() - processor
    for stream in streams:
        stream.close()
    return steps * system.published / seconds, processor / (steps * system.published)


if __name__ == "__main__":
    main()

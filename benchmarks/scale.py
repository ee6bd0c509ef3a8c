"""Time and cost of 1.28 million guided DiT-XL/2 samples on 8, 64 and 512 GPUs: `python benchmarks/scale.py
[--gpus 8 64 512] [--price 2.5]`.

The figures are computed from the recipe's plan (`plan --device`), from separate measurements (below, each
with its command), and from assumptions (below, marked as such). The run as a whole is simulated event by
event (`held_hours.py`). Nothing was run on a cluster of this size.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from dgflow.engine.plan import StepPlan, plan
from dgflow.estimate.estimates import Costs, counted
from dgflow.report.layout import aligned, duration, shortened, size
from dgflow.specs.step import NetworkStep, SampleStep, Slice, Step, Weights
from dgflow.specs.train_step import TrainStep
from dgflow.steps.generate import Generate
from dgflow.store.memory import MemoryStore

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from held_hours import Cluster, Simulation, Task

from workflows import imagenet256_dit

# Measured, on two cores that other programs used as well.
PUTS, HEADS, GETS = (
    3,
    1,
    1,
)  # requests per shard, including sealing: python -m pytest tests/store/test_requests.py
# Seconds of a worker per shard besides sampling, on S3 (SeaweedFS on the same cores): python -m pytest
# tests/cluster/test_flat.py -s
SHARD_OVERHEAD = 0.037
DRIVER_CPU = 0.0015  # s per shard: the same command
SEAL_SECONDS, SEAL_BYTES = 0.0026, 1_400  # of the driver, per shard: the same command
IMPORTS = 312  # JPEGs per second and CPU, with ADM's centre crop: docs/measurements.md
# CPU seconds of precision and recall, 50,000 x 10,000: docs/measurements.md (137 s on two cores).
NEIGHBOURS = 274

# Assumed.
CPUS = 32  # on CPU hosts: cluster.yaml's four hosts of eight; its GPU hosts offer none
TRAIN_START = 20  # s until Ray Train's workers start; observed on two cores: 14 to 23
BOOT = 300  # s from a host's request to its worker, paid for: cluster.yaml, `setup_commands`
IDLE = 120  # s that a host is held after its last work: cluster.yaml, `idle_timeout_minutes`
CONNECTION = 90e6  # bytes/s of one connection to S3: Amazon's advice says 85 to 90 MB/s
TRAINERS = (
    8  # GPUs that share a batch of 1,024: `run --train-workers 8`; without it all available GPUs take part
)
PUT_PRICE, GET_PRICE = 0.005 / 1000, 0.0004 / 1000  # dollars per request: S3 Standard, us-east-1
PUT_RATE, GET_RATE = 3_500, 5_500  # requests/s per prefix that S3 guarantees at least


@dataclass(frozen=True)
class Row:
    """One step on a cluster."""

    shards: int
    busy: float  # GPU seconds of work
    loading: float  # s until a worker has its weights
    seconds: float  # from its start to its end
    read: float  # bytes
    written: float


@dataclass(frozen=True)
class Model:
    """The recipe's cost on clusters; `shard_size` is the number of samples per generated shard."""

    plans: list[StepPlan]
    costs: Costs
    shard_size: int

    def row(self, made: StepPlan, gpus: int) -> Row:
        """Returns the row of a step on `gpus` GPUs: after the weights are loaded, shards run in whole rounds,
        since all take the same time."""
        step, busy, loading = made.step, self.busy(made), self.weights(made) / CONNECTION
        written = float(made.stored_bytes or self.kept(step))
        if isinstance(step, TrainStep):
            return Row(
                0,
                busy,
                loading,
                TRAIN_START + loading + busy / min(gpus, TRAINERS),
                step.epochs * read_bytes(made),
                written,
            )
        if not isinstance(step, SampleStep):
            return Row(
                0, busy, 0.0, NEIGHBOURS / CPUS if step.kind == "measure" else 0.0, read_bytes(made), written
            )
        shards, workers = self.shards(made), gpus
        seconds = busy / shards
        if not step.network_evaluations(1):
            seconds, workers = sum(part.rows for part in made.node.slices) / IMPORTS / shards, CPUS
        whole = loading + math.ceil(shards / workers) * (seconds + SHARD_OVERHEAD) + shards * SEAL_SECONDS
        return Row(
            shards,
            busy,
            loading,
            whole,
            read_bytes(made) + min(shards, workers) * self.weights(made),
            written,
        )

    def shards(self, made: StepPlan) -> int:
        return self.scaled(made.step, len(made.wanted)) if isinstance(made.step, SampleStep) else 0

    def shards_read(self, made: StepPlan) -> int:
        """Returns the GETs of other steps' shards, each once per pass."""
        passes = made.step.epochs if isinstance(made.step, TrainStep) else 1
        return passes * sum(self.scaled(step, len(part.shards)) for step, part in slices_of(made))

    def scaled(self, step: SampleStep, shards: int) -> int:
        """Converts the recipe's number of shards to shards of `shard_size`, if the samples are generated."""
        return math.ceil(shards * step.shard_size / self.shard_size) if isinstance(step, Generate) else shards

    def busy(self, made: StepPlan) -> float:
        found = self.costs.steps.get(made.step.fingerprint)
        return 0.0 if found is None else found.seconds

    def kept(self, step: Step) -> float:
        """Returns the bytes of the weights that a step stores."""
        found = self.costs.steps.get(step.fingerprint)
        return float(found.bytes or 0) if found is not None and isinstance(step, NetworkStep) else 0.0

    def weights(self, made: StepPlan) -> float:
        """Returns the bytes of the weights that each worker reads."""
        found = [
            reference.step for reference in made.step.inputs().values() if isinstance(reference, Weights)
        ]
        return sum(self.kept(step) / (step.epochs if isinstance(step, TrainStep) else 1) for step in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--device", default="h100")
    parser.add_argument("--price", type=float, default=2.5, help="assumed price of one GPU-hour")
    parser.add_argument("--shard-size", type=int, default=500, help="samples per generated shard")
    parser.add_argument("--boot", type=float, default=BOOT, help="seconds until a host is ready")
    parser.add_argument("--idle", type=float, default=IDLE, help="seconds that an idle host is held")
    parser.add_argument(
        "--load-once", action="store_true", help="workers of a host share the weights that one of them reads"
    )
    options = parser.parse_args()
    plans = plan(imagenet256_dit.workflow(), MemoryStore("scale"))
    model = Model(plans, counted(plans, options.device, price=options.price), options.shard_size)
    print("\n".join(aligned(steps(model, options.gpus))))
    print("\n" + "\n".join(aligned(runs(model, options.gpus, options))))
    print(
        f"a host starts in {options.boot:g} s and is released after {options.idle:g} idle seconds; cost "
        f"at {options.price:g} per GPU-hour, without the head node, CPU hosts and repeated shards\n"
    )
    print("\n".join(aligned(totals(model, options.gpus))) + "\n")
    print("\n".join(limits(model, options.gpus)))


def steps(model: Model, gpus: list[int]) -> list[list[str]]:
    cells = [
        [
            "step",
            "shards",
            f"{model.costs.device} hours",
            *(f"on {number}" for number in gpus),
            f"read on {gpus[-1]}",
            "written",
        ]
    ]
    for made in model.plans:
        rows = [model.row(made, number) for number in gpus]
        last = rows[-1]
        hours = f"{last.busy / 3600:,.2f}" if last.busy else ""
        times = [duration(row.seconds) if row.seconds else "" for row in rows]
        cells.append(
            [
                shortened(made.step.title),
                f"{last.shards:,}" if last.shards else "",
                hours,
                *times,
                size(last.read),
                size(last.written),
            ]
        )
    return cells


def tasks(model: Model) -> list[Task]:
    """Returns the recipe's steps for the simulation."""
    found = []
    for made in model.plans:
        step, busy, loading = made.step, model.busy(made), model.weights(made) / CONNECTION
        reads, shards = tuple(set(made.node.reads.values())), model.shards(made)
        if isinstance(step, TrainStep):
            task = Task(made.node.key, reads, "training", 1, TRAIN_START + busy / TRAINERS, loading)
        elif not isinstance(step, SampleStep):
            seconds = NEIGHBOURS / CPUS if step.kind == "measure" else 0.0
            task = Task(made.node.key, reads, "driver", 1, seconds)
        else:
            gpu = step.network_evaluations(1) > 0
            whole = busy if gpu else sum(part.rows for part in made.node.slices) / IMPORTS
            task = Task(
                made.node.key,
                reads,
                "gpu" if gpu else "cpu",
                shards,
                whole / shards + SHARD_OVERHEAD,
                loading,
                shards * SEAL_SECONDS,
            )
        found.append(task)
    return found


def runs(model: Model, gpus: list[int], options: argparse.Namespace) -> list[list[str]]:
    """Returns the table of the run on clusters of each size: with autoscaled hosts and with all hosts held,
    with sequential and with concurrent steps."""
    cells = [["GPUs", "hosts", "steps", "time", "GPU hours held", "at work", "cost"]]
    work = sum(map(model.busy, model.plans)) / 3600
    for number in gpus:
        for fixed in (True, False):
            for together in (False, True):
                cluster = Cluster(
                    number, options.boot, options.idle, CPUS, fixed, together, options.load_once
                )
                seconds, held = Simulation(tasks(model), cluster).run()
                cells.append(
                    [
                        f"{number}",
                        "all held" if fixed else "autoscaled",
                        "at once" if together else "in turn",
                        duration(seconds),
                        f"{held:,.0f}",
                        f"{work / held:.0%}",
                        f"{held * options.price:,.0f}",
                    ]
                )
    return cells


def totals(model: Model, gpus: list[int]) -> list[list[str]]:
    """Returns the table of the workers' requests to the store, which do not depend on the order of the
    steps."""
    cells = [["GPUs", "GPU hours loading", "PUT", "HEAD", "GET", "their price", "read", "written"]]
    for number in gpus:
        rows = [model.row(made, number) for made in model.plans]
        shards = sum(row.shards for row in rows)
        loading = sum(min(number, row.shards or TRAINERS) * row.loading for row in rows) / 3600
        gets = shards * GETS + sum(map(model.shards_read, model.plans))
        dollars = shards * PUTS * PUT_PRICE + (shards * HEADS + gets) * GET_PRICE
        bytes_ = [size(sum(row.read for row in rows)), size(sum(row.written for row in rows))]
        counts = [f"{count:,}" for count in (shards * PUTS, shards * HEADS, gets)]
        cells.append([f"{number}", f"{loading:,.1f}", *counts, f"{dollars:.2f}", *bytes_])
    return cells


def limits(model: Model, gpus: list[int]) -> list[str]:
    """Returns the number of GPUs that saturates each shared resource, in the step with the most samples."""
    largest = max((made for made in model.plans if isinstance(made.step, SampleStep)), key=model.busy)
    count = model.shards(largest)
    seconds = model.busy(largest) / count
    lines = [f"{largest.step.title}: {count:,} shards of {model.shard_size} samples, {seconds:.0f} s each"]
    rates = {
        "S3's writes of a prefix": PUT_RATE / PUTS,
        "S3's reads of a prefix": GET_RATE / (HEADS + GETS),
        "the driver": 1 / DRIVER_CPU,
    }
    for what, most in rates.items():
        lines.append(
            f"  {what}: saturated at {most:,.0f} shards/s, by {most * seconds:,.0f} GPUs; 512 GPUs reach "
            f"it with shards of {512 / most:.2f} s"
        )
    lines.append(
        f"  sealing in the driver: {duration(count * SEAL_SECONDS)} and {size(count * SEAL_BYTES)} of memory"
    )
    for number in gpus:
        rounds = count / number
        whole = math.ceil(rounds)
        lines.append(
            f"  {number} GPUs: {rounds:.2f} rounds of shards take the time of {whole:,}: "
            f"{rounds / whole:.0%} of it is work"
        )
    return lines


def slices_of(made: StepPlan) -> list[tuple[SampleStep, Slice]]:
    """Returns the samples that a step reads."""
    parts = [reference for reference in made.step.inputs().values() if isinstance(reference, Slice)]
    return [(part.step, part) for part in parts if isinstance(part.step, SampleStep)]


def read_bytes(made: StepPlan) -> float:
    """Returns an upper bound on the bytes of samples that a step reads in one pass."""
    return sum(float(part.rows * (step.row_bytes or 0)) for step, part in slices_of(made))


if __name__ == "__main__":
    main()

"""Cost of scheduling for the driver with hundreds of workers: `python benchmarks/scheduling.py [--workers
512] [--items 5120]`.

The benchmark runs the real pool on simulated hosts of 8 workers each and a simulated clock. An item takes 60
s +- 20 %, and hosts take up to ten minutes to start. Every two minutes a host is preempted; the cluster
notices within 15 s, and a replacement arrives three minutes later. Ray's own time is not included:
`benchmarks/pool.py` measures that. Utilisation is the share of the workers' lifetime in which they have work.
A worker's lifetime starts when it is ready, and ends when it is lost, when it is released, or when the last
item is done.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from pathlib import Path

from dgflow.runtime.pool.pool import Pool

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from runtime.simulated_fleet import Does, SimulatedFleet

GPUS_PER_HOST = 8
START_UP, REPLACED, PREEMPTED_EVERY = 600.0, 180.0, 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=512)
    parser.add_argument("--items", type=int, nargs="+", default=[2560, 5120, 10_240])
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds per item")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # each lost worker would be reported
    for items in options.items:
        print(simulated(options.workers, items, options.seconds))


def simulated(workers: int, items: int, seconds: float) -> str:
    chance = random.Random(0)
    fleet = SimulatedFleet(lambda item, host: Does(seconds * chance.uniform(0.8, 1.2)), most=workers)
    hosts = workers // GPUS_PER_HOST

    def come() -> None:
        fleet.join(
            f"host{len(fleet.running)}", places=GPUS_PER_HOST, starts=lambda: Does(chance.uniform(10.0, 20.0))
        )

    def preempt() -> None:
        if living := [host for host in fleet.running if not host.dead]:
            fleet.lose(chance.choice(living), noticed=chance.uniform(0.0, 15.0))
            fleet.at(fleet.now + REPLACED, come)
        fleet.at(fleet.now + PREEMPTED_EVERY, preempt)

    for number in range(hosts):
        fleet.at(START_UP * number / hosts, come)
    fleet.at(PREEMPTED_EVERY, preempt)
    done = []
    began = time.process_time()
    with Pool(None, fleet=fleet) as pool:
        failures = pool.map(lambda: lambda item: item, range(items), lambda item, _: done.append(item))
        took = fleet.now
    cpu = time.process_time() - began - fleet.own_cpu
    assert not failures and sorted(done) == list(range(items))
    handed_out = next(
        when for when, item, _ in fleet.runs if item == items - 1
    )  # after that, idle workers have no work left
    idle = [seconds for when, seconds in fleet.idle if when <= handed_out]
    return (
        f"{workers} workers, {items} items of {seconds:g} s, {len(fleet.runs) - items} begun again: "
        f"{took / 60:.0f} simulated minutes; driver {1000 * cpu / items:.2f} ms of CPU per item; idle "
        f"before an item at most {max(idle):.2f} s; utilisation "
        f"{fleet.busy_seconds / fleet.worker_seconds:.3f}"
    )


if __name__ == "__main__":
    main()

"""Cost of guidance by an ensemble of discriminators relative to one, at EDM's CIFAR-10 sizes.

    python benchmarks/ensemble.py [--members 6] [--batch 1 16] [--precision float32] [--threads 1]
    [--rounds 5] [--without-sharing]

The features are the published ones (32 pixels, widths 1, 2, 4, depth 4), and so is every member's head on
them (512 x 8 x 8, depth 2). An evaluation is the log-ratio and its gradient for the samples, as samplers
request them: for one discriminator, for the ensemble, and with `--without-sharing` for the ensemble with
separate features for each member. Weights are random, which does not affect the time. The variants run in
turn, and the minimum over the rounds is reported. With one CPU thread the clock is the process's CPU time,
which other programs on the machine disturb less. The exit status is 1 if the ensemble costs more than `BOUND`
times one discriminator.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial

import torch
from sampling import networks
from torch import Tensor

from dgflow.diffusion.acceleration import prepared
from dgflow.diffusion.discriminator_guidance import LogRatio, log_ratio_and_gradient
from dgflow.diffusion.ensembles import EnsembleLogRatio
from dgflow.networks.discriminator.ensemble import EnsembleModule
from dgflow.networks.discriminator.module import DiscriminatorModule

BOUND = 1.6


def discriminators(members: int) -> list[DiscriminatorModule]:
    """Returns discriminators of published size, on the same module of features."""
    _, first = networks("edm")
    made = [first]
    for number in range(1, members):
        torch.manual_seed(number)
        head = deepcopy(first.head)
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        made.append(DiscriminatorModule(first.features, head))
    return made


def least_seconds(
    variants: dict[str, Callable[[], Tensor]], rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Returns the minimum seconds per variant. Each runs once as a warm-up; then the variants run in turn."""
    for evaluate in variants.values():
        evaluate()
    found: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, evaluate in variants.items():
            began = clock()
            if evaluate().is_cuda:
                torch.cuda.synchronize()
            found[name].append(clock() - began)
    return {name: min(times) for name, times in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--members", type=int, default=6)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--without-sharing",
        action="store_true",
        help="also measure the ensemble without shared features; slow",
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clock = time.process_time if options.threads == 1 and device.type == "cpu" else time.perf_counter

    shared = [
        prepared(member, precision=options.precision, device=device)
        for member in discriminators(options.members)
    ]
    asked: dict[str, LogRatio] = {"one": shared[0], "ensemble": EnsembleLogRatio(EnsembleModule(shared))}
    if options.without_sharing:
        asked["without sharing"] = EnsembleLogRatio(EnsembleModule([deepcopy(member) for member in shared]))
    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {options.threads} thread(s)"
    print(f"{machine}, torch {torch.__version__}, {options.precision}, {options.members} members\n")
    columns = " | ".join(f"{name}, s | ratio to one" for name in asked)
    print(f"| batch | {columns} |\n|---|{'---|---|' * len(asked)}")
    worst = 0.0
    for batch in options.batch:
        generator = torch.Generator().manual_seed(batch)
        x = torch.randn(batch, 3, 32, 32, dtype=torch.float64, generator=generator).to(device)
        sigma = torch.ones(batch, dtype=torch.float64, device=device)

        def gradient(log_ratio: LogRatio, x: Tensor = x, sigma: Tensor = sigma) -> Tensor:
            return log_ratio_and_gradient(log_ratio, x, sigma, None)[1]

        evaluations = {name: partial(gradient, log_ratio) for name, log_ratio in asked.items()}
        seconds = least_seconds(evaluations, options.rounds, clock)
        ratios = {name: value / seconds["one"] for name, value in seconds.items()}
        worst = max(worst, ratios["ensemble"])
        cells = " | ".join(f"{seconds[name]:.3f} | {ratios[name]:.2f}" for name in asked)
        print(f"| {batch} | {cells} |", flush=True)
    if worst > BOUND:
        raise SystemExit(f"expected at most {BOUND} times the cost of one discriminator, found {worst:.2f}")


if __name__ == "__main__":
    main()

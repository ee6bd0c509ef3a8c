"""Images per second and peak memory of sampling with and without discriminator guidance, for networks of the
published sizes.

    python benchmarks/sampling.py [--system edm adm dit] [--batch 1 16 64] [--variant plain f32-nhwc ...]
    [--threads 2] [--seconds 4]

A whole run takes hours on a CPU. Therefore the medians of one score evaluation and one guidance evaluation
are measured, each variant in a fresh process and after its own warm-up, and images/s follow from the number
of evaluations in the published schedule. `--validate` runs a short schedule of the real sampler and compares
its time with the prediction. Weights are random, which does not affect the time. The sampler's own arithmetic
is left out: it is below the noise. With one CPU thread the clock is the process's CPU time, which other
programs on the machine disturb less; otherwise it is wall-clock time.

"plain" is a guided sampler without optimisation: float32, NCHW, parameters that require gradients, a
`.backward()` of the log-ratio, the discriminator evaluated in every step. The others are
`acceleration.prepared` networks within the published window: f32, bf16 or f16, channels_last (nhwc) or not
(nchw), compiled (-c) or not. Each row gives the largest differences of denoised images and of guidance
gradients from those of "plain" on the same input, relative to their largest value. If compiled, score network
and guidance are one graph; the time of guidance is the time of that graph minus the time of the graph of the
score network alone.

Peak memory is the maximum that the process held while sampling minus what it held before it built the
networks (compiled: including what the compiler left); on CUDA, the maximum that was allocated. The default is
batch 1 without compilation.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sampling_networks import OF_EDM, SHAPES, TITLES, networks, schedule_counts
from torch import Tensor

from dgflow.diffusion.acceleration import prepared
from dgflow.diffusion.classifier_free import ClassifierFreePredictor
from dgflow.diffusion.ddpm import ddpm
from dgflow.diffusion.denoisers import learned_range
from dgflow.diffusion.discrete import DiscreteSchedule
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm, log_ratio_and_gradient
from dgflow.diffusion.evaluation import Guides, Network, OfDenoiser, OfPredictor, Place, eagerly
from dgflow.diffusion.guidance import Point
from dgflow.diffusion.guidance_settings import ClassifierFree, Switch
from dgflow.diffusion.heun import edm_sigmas, heun
from dgflow.diffusion.one_graph import OneGraph
from dgflow.diffusion.samplers import Sample
from dgflow.diffusion.times import per_sample, tau_from_sigma
from dgflow.networks.discriminator.module import DiscriminatorModule
from dgflow.specs.spec import Precision

VARIANTS = ("plain", "f32-nchw", "f32-nhwc", "bf16-nchw", "bf16-nhwc", "f16-nchw", "f16-nhwc")
COMPILED = tuple(f"{name}-c" for name in VARIANTS[1:])
DEFAULT = ("edm", "adm", "dit")
F32_BOUND = 1e-3
"""Largest accepted difference of a float32 variant from "plain", relative to the largest value."""


@dataclass(frozen=True)
class Measured:
    """Seconds of one evaluation, peak memory in bytes, predicted and measured seconds of a short run, and the
    computed arrays."""

    score: float
    guidance: float
    peak: int
    validation: tuple[float, float] | None
    denoised: list[float]
    gradient: list[float]


def precision_of(variant: str) -> Precision:
    """Returns the precision of the networks in a variant."""
    precisions: dict[str, Precision] = {"bf16": "bfloat16", "f16": "float16"}
    return precisions.get(variant.split("-")[0], "float32")


def plain_gradient(
    discriminator: DiscriminatorModule, x: Tensor, sigma: Tensor, class_labels: Tensor | None
) -> Tensor:
    """Returns the log-ratio's gradient as a naive implementation computes it: with the gradients of all
    parameters, accumulated and never used."""
    mean = per_sample((1.0 + sigma.square()).rsqrt(), x)
    with torch.enable_grad():
        y = (mean * x).float().requires_grad_()
        discriminator(y, tau_from_sigma(sigma).float(), class_labels).sum().backward()
    assert y.grad is not None
    return mean * y.grad.double()


def measure(system: str, batch: int, variant: str, threads: int, seconds: float, validate: bool) -> Measured:
    """Measures one variant; to be called in a separate process."""
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    idle = _memory("VmRSS")
    score, discriminator = networks(system)
    if variant == "plain":
        score, discriminator = (
            score.to(device).requires_grad_(True),
            discriminator.to(device).requires_grad_(True),
        )
    else:
        for network in (score, discriminator):
            prepared(network, precision=precision_of(variant), device=device)
            network.to(memory_format=torch.contiguous_format if "nchw" in variant else torch.channels_last)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, *SHAPES[system], dtype=torch.float64, generator=generator).to(device)
    sigma = torch.ones(batch, dtype=torch.float64, device=device)
    labels = None if system in OF_EDM else (torch.arange(batch, device=device) * 7) % 1000
    predictor = learned_range(score)
    if system.startswith("dit"):
        predictor = ClassifierFreePredictor(
            predictor, 1000, ClassifierFree(scale=Switch(above=1.25, below=3.0, timestep=200))
        )

    compiled = variant.endswith("-c")
    how = OneGraph() if compiled else eagerly
    evaluated: Network = OfDenoiser(score) if system in OF_EDM else OfPredictor(predictor)
    state = (x,) if system in OF_EDM else (x, x, 400 * sigma)
    place, term = Place(sigma, labels, 0, 1, (1.0, 1.0)), DiscriminatorTerm(discriminator)

    @torch.no_grad()
    def denoised() -> Tensor:
        return how(evaluated, state, (), place)[0].denoised

    def gradient() -> Tensor:
        if variant == "plain":
            return plain_gradient(discriminator, x, sigma, labels)
        if compiled:
            gradient = how(evaluated, state, (term,), place)[0].gradient
            assert gradient is not None
            return gradient
        return log_ratio_and_gradient(discriminator, x, sigma, labels)[1]

    outputs = denoised(), gradient()  # the warm-up; compiles
    _forget_peak()
    # One thread computes all the time: its CPU time equals the wall-clock time on an otherwise idle machine.
    clock = time.process_time if threads == 1 and device.type == "cpu" else time.perf_counter
    alone, guided = _median_seconds(denoised, seconds, clock), _median_seconds(gradient, seconds, clock)
    times = alone, guided - alone if compiled else guided
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else _memory("VmHWM") - idle

    def plain(point: Point) -> tuple[Tensor | None, Tensor | None]:
        return plain_gradient(discriminator, point.x, point.sigma, point.class_labels), None

    def run() -> Sample:
        guides = Guides([plain if variant == "plain" else term], how)
        if system in OF_EDM:
            return heun(score, x, edm_sigmas(4), guidance=guides)
        schedule = DiscreteSchedule.of(respacing="4")
        return ddpm(predictor, x, schedule, noise=lambda step: x, class_labels=labels, guidance=guides)

    validation = None
    if validate:
        began = clock()
        sample = run()
        _wait(device)
        validation = sample.nfe * times[0] + sample.guidance_nfe * times[1], clock() - began
    return Measured(*times, peak, validation, *(output.double().flatten().tolist() for output in outputs))


def _median_seconds(evaluate: Callable[[], Tensor], seconds: float, clock: Callable[[], float]) -> float:
    """Returns the median time of the calls that fit into `seconds`, at least two."""
    found, end = [], clock() + seconds
    while len(found) < 2 or clock() < end:
        began = clock()
        _wait(evaluate().device)
        found.append(clock() - began)
    return statistics.median(found)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory(field: str) -> int:
    """Returns a field of the kernel's memory accounting for this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _forget_peak() -> None:
    """Resets the peak to the memory that is held now."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def table_row(system: str, batch: int, variant: str, found: Measured, plain: Measured) -> dict[str, Any]:
    """Returns one row's numbers: images/s unguided and guided, the speed-up relative to "plain", peak memory,
    differences, validation."""
    nfe, inside, always = schedule_counts(system)

    def seconds(of: Measured, evaluations: int) -> float:
        return nfe * of.score + evaluations * of.guidance

    evaluations = always if variant == "plain" else inside
    row = {
        "system": system,
        "batch": batch,
        "variant": variant,
        "score_s": found.score,
        "guidance_s": found.guidance,
    }
    row |= {
        "unguided_images_per_s": batch / seconds(found, 0),
        "guided_images_per_s": batch / seconds(found, evaluations),
    }
    row |= {
        "gain_unguided": plain.score / found.score,
        "gain_guided": seconds(plain, always) / seconds(found, evaluations),
    }
    row |= {"peak_bytes": found.peak, "denoised_difference": _difference(found.denoised, plain.denoised)}
    row |= {
        "gradient_difference": _difference(found.gradient, plain.gradient),
        "validation": found.validation,
    }
    return row


def _difference(found: list[float], expected: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(found, expected, strict=True)) / max(map(abs, expected))


def show(row: dict[str, Any]) -> None:
    print(
        f"| {row['system']} | {row['batch']} | {row['variant']} | {row['score_s']:.3f} | "
        f"{row['guidance_s']:.3f} | {row['unguided_images_per_s']:.4g} | {row['guided_images_per_s']:.4g} | "
        f"{row['gain_unguided']:.2f} | {row['gain_guided']:.2f} | {row['peak_bytes'] / 2**20:.0f} | "
        f"{row['denoised_difference']:.1e} | {row['gradient_difference']:.1e} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--system", nargs="+", choices=SHAPES, default=DEFAULT)
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument(
        "--variant",
        nargs="+",
        choices=(*VARIANTS, *COMPILED),
        default=VARIANTS,
        help="plain is always measured too",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="time for each median; two evaluations at least"
    )
    parser.add_argument(
        "--validate", action="store_true", help="also run a short schedule and compare it with its prediction"
    )
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()

    machine = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {options.threads} thread(s)"
    )
    print(
        f"{machine}, torch {torch.__version__}; "
        f"{'; '.join(f'{name}: {TITLES[name]}' for name in options.system)}\n"
    )
    times, rates = "score s | guidance s", "images/s unguided | guided | gain unguided | guided"
    columns = f"system | batch | variant | {times} | {rates} | peak MiB"
    print(f"| {columns} | denoised differs | gradient differs |\n|{'---|' * 12}", flush=True)
    rows = []
    for system in options.system:
        for batch in options.batch:
            plain = None
            for variant in ("plain", *(name for name in options.variant if name != "plain")):
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
                    settings = (system, batch, variant, options.threads, options.seconds, options.validate)
                    found = fresh.submit(measure, *settings).result()
                plain = plain or found
                rows.append(table_row(system, batch, variant, found, plain))
                show(rows[-1])
    for row in rows:
        if row["validation"]:
            predicted, took = row["validation"]
            print(
                f"short run, {row['system']} batch {row['batch']} {row['variant']}: predicted "
                f"{predicted:.2f} s, took {took:.2f} s"
            )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))
    float32 = (row for row in rows if row["variant"].startswith("f32"))
    far = {
        row["variant"]
        for row in float32
        if max(row["denoised_difference"], row["gradient_difference"]) > F32_BOUND
    }
    if far:
        raise SystemExit(
            f'expected float32 variants within {F32_BOUND} of "plain", found larger differences of: '
            f"{', '.join(sorted(far))}"
        )


if __name__ == "__main__":
    main()

"""Parts of `gpu.py` that measure speed: sampling, compiled and at published sizes, features, and training
rows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import sampling
import sampling_networks
import torch
from gpu_part import ERRORS, PRECISIONS, Part, largest_error, median_seconds
from torch import Tensor

from dgflow.diffusion.acceleration import prepared
from dgflow.diffusion.device_errors import is_out_of_memory
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
from dgflow.diffusion.evaluation import Guides
from dgflow.diffusion.guidance import Guide
from dgflow.diffusion.heun import edm_sigmas, heun
from dgflow.diffusion.one_graph import OneGraph


def compiled(part: Part) -> None:
    """Compares guided sampling by one compiled graph of score network and guidance (replayed as a CUDA graph
    on CUDA) with eager sampling. On CUDA, no step of either may wait for the device."""
    from torch._dynamo.utils import counters

    system, batch, steps = ("toy", 2, 3) if part.toy else ("edm", 16, 18)
    score, discriminator = (prepared(each, device=part.device) for each in sampling_networks.networks(system))
    x = torch.randn(batch, *sampling_networks.SHAPES[system], dtype=torch.float64).to(part.device)
    term = DiscriminatorTerm(discriminator)
    one_graph = OneGraph("eager" if part.toy else "inductor")
    ways = {"eager": [term], "one graph": Guides([term], one_graph)}
    found: dict[str, tuple[Tensor, float]] = {}
    for name, guidance in ways.items():

        def run(guidance: Sequence[Guide] = guidance) -> Tensor:
            return heun(score, x, edm_sigmas(steps), guidance=guidance).x

        began = time.monotonic()
        try:
            run()
            ready = time.monotonic() - began
            with _without_waits(part):
                run()
            found[name] = run(), median_seconds(part, run, 1.0)
        except Exception as error:  # any compiler error becomes a row, and the next part continues
            part.row(f"{steps} guided steps, {name}", wrong=f"{type(error).__name__}: {error}".split("\n")[0])
            continue
        if "eager" not in found:
            continue
        (expected, plain), (x_0, seconds) = found["eager"], found[name]
        error = largest_error(x_0, expected.cpu())
        part.row(
            f"{steps} guided steps, {name}, {system} batch {batch}",
            start_s=ready,
            images_per_s=batch / seconds,
            gain=plain / seconds,
            graphs=counters["stats"]["unique_graphs"],
            breaks=sum(counters["graph_break"].values()),
            differs=error,
            wrong="differs from eager" if error > ERRORS["float32"] else "",
        )
    if part.device.type == "cuda":
        _graphs(part, system, batch)


@contextmanager
def _without_waits(part: Part) -> Iterator[None]:
    """Raises an error, on CUDA, if the host waits for the device."""
    if part.device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _graphs(part: Part, system: str, batch: int) -> None:
    score, _ = sampling_networks.networks(system)
    prepared(score, device=part.device)
    x = torch.randn(batch, *sampling_networks.SHAPES[system], dtype=torch.float64).to(part.device)
    sigma = torch.ones(batch, dtype=torch.float64, device=part.device)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.no_grad():
        for _ in range(3):
            expected = score(x, sigma, None)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.no_grad():
        held = score(x, sigma, None)
    graph.replay()
    part.wait()
    error = largest_error(held, expected.cpu())

    def eager() -> Tensor:
        with torch.no_grad():
            return score(x, sigma, None)

    def replay() -> Tensor:
        graph.replay()
        return held

    gain = median_seconds(part, eager, 1.0) / median_seconds(part, replay, 1.0)
    part.row(
        f"CUDA graph, score, {system} batch {batch}",
        gain=gain,
        differs=error,
        wrong="differs from eager" if error > ERRORS["float32"] else "",
    )


def speed(part: Part) -> None:
    """Measures guided sampling at published sizes, with and without optimisations. The largest batches come
    last and are left out if time is up."""
    systems = ("toy",) if part.toy else ("edm", "dit-xl", "adm", "adm256")
    batches = (2,) if part.toy else (1, 16, 64, 256)
    variants = (
        ("plain", "f32-nhwc", "f16-nhwc")
        if part.toy
        else ("plain", "f32-nchw", "f32-nhwc", "bf16-nchw", "bf16-nhwc", "f16-nhwc")
    )
    peak = _peak(part)
    for batch in batches:
        for system in systems:
            plain = None
            for variant in variants:
                if part.time_is_up:
                    part.row("time is up", before=f"{system} batch {batch} {variant}")
                    return
                try:
                    found = sampling.measure(
                        system,
                        batch,
                        variant,
                        torch.get_num_threads(),
                        0.01 if part.toy else 0.3,
                        validate=False,
                    )
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    part.row(f"{system} batch {batch} {variant}", out_of_memory=True)
                    torch.cuda.empty_cache()
                    continue
                plain = plain or found
                row = sampling.table_row(system, batch, variant, found, plain)
                part.row(
                    f"{system} batch {batch} {variant}",
                    images_per_s=row["guided_images_per_s"],
                    gain=row["gain_guided"],
                    peak_mib=round(row["peak_bytes"] / 2**20),
                    denoised_differs=row["denoised_difference"],
                    gradient_differs=row["gradient_difference"],
                    **_rate(part, system, batch, found.score, peak.get(sampling.precision_of(variant))),
                )


@cache
def _flops(system: str, device: torch.device) -> int:
    """Returns the FLOP of the score network for one sample."""
    from torch.utils.flop_counter import FlopCounterMode

    score, _ = sampling_networks.networks(system)
    score.to(device)
    x, sigma = torch.zeros(1, *sampling_networks.SHAPES[system], device=device), torch.ones(1, device=device)
    labels = None if system in sampling_networks.OF_EDM else torch.zeros(1, dtype=torch.int64, device=device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        score(x, sigma, labels)
    return counter.get_total_flops()


def _rate(part: Part, system: str, batch: int, seconds: float, peak: float | None) -> dict[str, float]:
    """Returns the FLOP/s of the score network, and its share of the device's published rate if the rate is
    known."""
    twice = 2 if system.startswith("dit") else 1  # classifier-free guidance
    rate = twice * batch * _flops(system, part.device) / seconds
    return {"tflops": rate / 1e12} | ({} if peak is None else {"share_of_peak": rate / (peak * 1e12)})


def _peak(part: Part) -> dict[str, float]:
    """Returns the device's TFLOP/s by precision, as stated by its vendor; none for an unknown one."""
    from dgflow.estimate.devices import DEVICES

    name = torch.cuda.get_device_name() if part.device.type == "cuda" else ""
    device = next(
        (DEVICES[key] for key in ("b200", "h200", "h100", "a100", "l40s", "l4") if key.upper() in name), None
    )
    return {} if device is None else {name: device.rates(name)[0] for name in PRECISIONS}


def features(part: Part) -> None:
    """Measures images per second of Inception's features, in full float32, as the metrics use them."""
    from dgflow.networks.inception.module import InceptionV3Module, accelerated

    torch.manual_seed(0)
    network = accelerated(InceptionV3Module().eval().requires_grad_(False).to(part.device))
    for batch in (2,) if part.toy else (16, 64, 256):
        if part.time_is_up:
            return
        images = torch.rand(batch, 3, 299, 299, device=part.device) * 2 - 1
        seconds = median_seconds(part, lambda images=images: network(images).pooled, 0.2 if part.toy else 2.0)
        part.row(f"Inception, batch {batch}", images_per_s=batch / seconds)


def rows(part: Part) -> None:
    """Measures rows per second of training, by precision: forward, backward and a step of Adam for the
    published latent discriminator's head with its features."""
    system, batch = ("toy", 8) if part.toy else ("edm", 128)
    for precision in ("float32", "bfloat16"):
        if part.time_is_up:
            return
        _, discriminator = sampling_networks.networks(system)
        discriminator.to(part.device).train()
        optimizer = torch.optim.Adam([each for each in discriminator.parameters() if each.requires_grad])
        x = torch.randn(batch, *sampling_networks.SHAPES[system], device=part.device)
        tau = torch.full((batch,), 0.5, device=part.device)

        def step(
            discriminator=discriminator, optimizer=optimizer, x=x, tau=tau, precision=precision
        ) -> Tensor:
            with torch.autocast(part.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                loss = discriminator(x, tau, None).float().square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            return loss

        part.row(
            f"training of {system}'s discriminator, batch {batch}, {precision}",
            rows_per_s=batch / median_seconds(part, step, 2.0),
        )

"""The parts of `gpu.py`: functions that write rows as they measure them. A row has a title `what`, figures,
and `wrong`: the reason if a figure differs from its required value.

    python benchmarks/gpu_parts.py PART FILE SECONDS [--toy]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import sampling
import torch
from torch import Tensor

from dgflow.diffusion import noise
from dgflow.diffusion.acceleration import prepared, products
from dgflow.diffusion.batches import Batches
from dgflow.diffusion.device_errors import is_out_of_memory
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
from dgflow.diffusion.evaluation import Guides
from dgflow.diffusion.guidance import Guide
from dgflow.diffusion.heun import edm_sigmas, heun
from dgflow.diffusion.one_graph import OneGraph
from dgflow.specs.spec import Precision

ERRORS: dict[Precision, float] = {"float32": 1e-3, "tf32": 2e-2, "bfloat16": 0.3, "float16": 0.1}
"""Largest accepted error of the golden networks' outputs, relative to the largest value."""
PRECISIONS = tuple(ERRORS)
NARROW = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Part:
    """Device, time limit and output file of a part."""

    device: torch.device
    toy: bool
    seconds: float
    file: Path

    def row(self, what: str, **figures: Any) -> None:
        """Writes a row immediately, so that it survives the end of the part."""
        with self.file.open("a") as file:
            file.write(json.dumps({"what": what, **figures}) + "\n")

    @property
    def time_is_up(self) -> bool:
        return time.monotonic() - BEGAN > self.seconds

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


BEGAN = time.monotonic()


def machine(part: Part) -> None:
    """Reports the GPU that torch sees, its driver, and the versions that affect bits."""
    part.row(
        "versions",
        torch=torch.__version__,
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
        python=platform.python_version(),
        driver=_driver(),
    )
    if part.device.type != "cuda":
        part.row("device", name="CPU", threads=torch.get_num_threads())
        return
    properties = torch.cuda.get_device_properties(0)
    part.row(
        "device",
        name=properties.name,
        gib=round(properties.total_memory / 2**30, 1),
        processors=properties.multi_processor_count,
        capability=f"{properties.major}.{properties.minor}",
    )
    side = 8192
    for precision in PRECISIONS:
        a = torch.randn(side, side, device=part.device, dtype=NARROW.get(precision, torch.float32))
        with products(precision):
            seconds = _median(part, lambda a=a: a @ a, 1.0)
        part.row(f"product of {side} x {side} matrices, {precision}", tflops=2e-12 * side**3 / seconds)


def _driver() -> str:
    with suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.split("\n")[0]
    return ""


def noise_bits(part: Part) -> None:
    """Checks that the counter-based random numbers are bit-identical to the CPU's."""
    index = torch.tensor([0, 1, 49_999, 2**31, 2**40])
    draws: dict[str, Callable[[Tensor], Tensor]] = {
        "uniform": lambda index: noise.uniform(7, index, (3, 32, 32), step=3),
        "standard_normal": lambda index: noise.standard_normal(2**40 + 1, index, (3, 64, 64), step=0),
        "integers": lambda index: noise.integers(11, index, 1000),
    }
    for name, draw in draws.items():
        expected, found = draw(index), draw(index.to(part.device)).cpu()
        differ = int((expected != found).sum())
        part.row(
            name,
            numbers=expected.numel(),
            differ=differ,
            wrong="bits differ from the CPU's" if differ else "",
        )


def goldens(part: Part) -> None:
    """Compares networks with outputs of the original implementations, on the device and in every
    precision."""
    _without_pytest()
    from parity import goldens as cases
    from parity.test_networks import RUNS

    for precision in PRECISIONS:
        worst: dict[str, float] = {}
        for chosen, run, _ in RUNS:
            for param in cases.cases(chosen):
                (case,) = cast(Any, param).values
                if part.time_is_up or (part.toy and len(worst) >= 2):
                    break
                config, arrays, weights = cases.load(case)
                with _on(part, precision) as given:
                    outputs = run(config, given(arrays), weights)
                worst[case.name] = max(_error(outputs[name], arrays[name]) for name in outputs)
        name, error = max(worst.items(), key=lambda item: item[1], default=("none", 0.0))
        part.row(
            f"networks in {precision}",
            cases=len(worst),
            worst=name,
            error=error,
            wrong=f"differs by more than {ERRORS[precision]}" if error > ERRORS[precision] else "",
        )


def _without_pytest() -> None:
    """Replaces what the test files import from pytest, if pytest is not installed."""
    with suppress(ImportError):
        import pytest  # noqa: F401

        return
    pytest: Any = ModuleType("pytest")
    pytest.param = lambda *values, id=None: SimpleNamespace(values=values, id=id)
    pytest.mark = SimpleNamespace(parametrize=lambda *_, **__: lambda test: test)
    sys.modules["pytest"] = pytest


@contextmanager
def _on(part: Part, precision: Precision) -> Iterator[Callable[[dict[str, Tensor]], dict[str, Tensor]]]:
    """Provides a context in which new networks are created on the device and compute in that precision;
    yields a function that moves arrays to the device."""
    torch.set_default_device(part.device)
    try:
        with (
            products(precision),
            torch.autocast(
                part.device.type, NARROW.get(precision, torch.bfloat16), enabled=precision in NARROW
            ),
        ):
            yield lambda arrays: {name: value.to(part.device) for name, value in arrays.items()}
    finally:
        torch.set_default_device("cpu")


def _error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().cpu().double(), expected.double()
    finite = expected.isfinite()
    if not finite.any():
        return 0.0
    return float(
        (found[finite] - expected[finite]).abs().max() / expected[finite].abs().max().clamp_min(1e-30)
    )


def training(part: Part) -> None:
    """Trains one epoch in a process group of size one (NCCL on a GPU), resumes for a second, and compares the
    losses with those of two uninterrupted epochs."""
    import tiny
    import torch.distributed as dist
    from inprocess import complete
    from torch.nn.parallel import DistributedDataParallel

    from dgflow.engine.root import Root
    from dgflow.runtime.training.loop import train
    from dgflow.store.open import open_store

    with tempfile.TemporaryDirectory() as folder:
        source = tiny.write_images(Path(folder) / "images.npz")
        store = open_store(f"{folder}/root")
        step = tiny.score(source, epochs=1)
        inputs = complete(step, store)
        backend = "nccl" if part.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/meeting", rank=0, world_size=1)
        losses: dict[str, list[float]] = {}
        for name, stops in (("undisturbed", [2]), ("resumed", [1, 2])):
            own = step.model_copy(update={"seed": 5})
            steps = Root(open_store(f"{folder}/{name}")).step_store(own)
            for epochs in stops:
                task = own.training_task(inputs)
                train(
                    task,
                    steps,
                    inputs.digests,
                    epochs=epochs,
                    wrap=lambda network: DistributedDataParallel(network, broadcast_buffers=False),
                )
            receipts = steps.receipts(list(steps.done("epochs", inputs.digests).values()))
            losses[name] = [
                receipt.metrics["train_loss"] for receipt in sorted(receipts, key=lambda r: r.number)
            ]
        dist.destroy_process_group()
    apart = max(abs(a - b) / abs(a) for a, b in zip(*losses.values(), strict=True))
    part.row(
        f"two epochs through {backend}",
        losses=[round(loss, 6) for loss in losses["undisturbed"]],
        resumed_differs=apart,
        wrong="the resumed training has a different loss" if apart > 1e-4 else "",
    )


def memory(part: Part) -> None:
    """Checks that a batch is halved if the device runs out of memory, in sampling and in training."""
    if part.device.type != "cuda":
        limit, asked = 4, []

        def make(first: int, last: int) -> int:
            asked.append(last - first)
            if last - first > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return last - first
    else:
        torch.cuda.set_per_process_memory_fraction(
            min(1.0, 2 * 2**30 / torch.cuda.get_device_properties(0).total_memory)
        )
        asked = []

        def make(first: int, last: int) -> int:
            asked.append(last - first)
            rows = torch.zeros(
                last - first, 100 * 2**20, dtype=torch.uint8, device=part.device
            )  # 100 MiB each
            return len(rows)

    batches = Batches(32, of="rows of 100 MiB")
    made = batches.map(make, 0, 32)
    part.row(
        "rows in halved batches",
        asked=asked,
        wrong="" if sum(made) == 32 and batches.size < 32 else "not halved, or rows are missing",
    )
    if part.device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(1.0)
    _micro_batches(part)


def _micro_batches(part: Part) -> None:
    """Compares the gradient of a batch that is computed in parts, because the device ran out of memory, with
    the gradient of the whole batch."""
    from dgflow.runtime.training.micro_batches import MicroBatches

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(64, 4096), torch.nn.SiLU(), torch.nn.Linear(4096, 1)).to(
        part.device
    )
    rows = torch.randn(512, 64, device=part.device)
    room = {"rows": 512}

    def loss(network: torch.nn.Module, slots: Tensor, step: int) -> Tensor:
        if len(slots) > room["rows"]:
            if part.device.type == "cuda":
                torch.empty(2**50, dtype=torch.uint8, device=part.device)  # more than any device has
            raise torch.OutOfMemoryError("CUDA out of memory")
        return network(rows[slots.to(part.device)]).square()[:, 0]

    optimizer = torch.optim.SGD(network.parameters())
    task = cast(Any, SimpleNamespace(loss=loss, optimizer=optimizer, device=part.device))
    batches, gradients = MicroBatches(task, network, "a toy", alone=True), []
    for most in (512, 100):
        room["rows"] = most
        batches.backward(torch.arange(512), 0, 1.0)
        gradients.append(
            torch.cat([each.grad.flatten() for each in network.parameters() if each.grad is not None])
        )
    error = _error(gradients[1], gradients[0].cpu())
    part.row(
        "a training batch in parts",
        parts=batches.parts,
        gradient_differs=error,
        wrong="" if batches.parts == 8 and error < 1e-4 else "wrong number of parts, or wrong gradient",
    )


def compiled(part: Part) -> None:
    """Compares guided sampling by one compiled graph of score network and guidance (replayed as a CUDA graph
    on CUDA) with eager sampling. On CUDA, no step of either may wait for the device."""
    from torch._dynamo.utils import counters

    system, batch, steps = ("toy", 2, 3) if part.toy else ("edm", 16, 18)
    score, discriminator = (prepared(each, device=part.device) for each in sampling.networks(system))
    x = torch.randn(batch, *sampling.SHAPES[system], dtype=torch.float64).to(part.device)
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
            found[name] = run(), _median(part, run, 1.0)
        except Exception as error:  # any compiler error becomes a row, and the next part continues
            part.row(f"{steps} guided steps, {name}", wrong=f"{type(error).__name__}: {error}".split("\n")[0])
            continue
        if "eager" not in found:
            continue
        (expected, plain), (x_0, seconds) = found["eager"], found[name]
        error = _error(x_0, expected.cpu())
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
    score, _ = sampling.networks(system)
    prepared(score, device=part.device)
    x = torch.randn(batch, *sampling.SHAPES[system], dtype=torch.float64).to(part.device)
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
    error = _error(held, expected.cpu())

    def eager() -> Tensor:
        with torch.no_grad():
            return score(x, sigma, None)

    def replay() -> Tensor:
        graph.replay()
        return held

    gain = _median(part, eager, 1.0) / _median(part, replay, 1.0)
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

    score, _ = sampling.networks(system)
    score.to(device)
    x, sigma = torch.zeros(1, *sampling.SHAPES[system], device=device), torch.ones(1, device=device)
    labels = None if system in sampling.OF_EDM else torch.zeros(1, dtype=torch.int64, device=device)
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
        seconds = _median(part, lambda images=images: network(images).pooled, 0.2 if part.toy else 2.0)
        part.row(f"Inception, batch {batch}", images_per_s=batch / seconds)


def rows(part: Part) -> None:
    """Measures rows per second of training, by precision: forward, backward and a step of Adam for the
    published latent discriminator's head with its features."""
    system, batch = ("toy", 8) if part.toy else ("edm", 128)
    for precision in ("float32", "bfloat16"):
        if part.time_is_up:
            return
        _, discriminator = sampling.networks(system)
        discriminator.to(part.device).train()
        optimizer = torch.optim.Adam([each for each in discriminator.parameters() if each.requires_grad])
        x = torch.randn(batch, *sampling.SHAPES[system], device=part.device)
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
            rows_per_s=batch / _median(part, step, 2.0),
        )


def _median(part: Part, evaluate: Callable[[], Tensor], seconds: float) -> float:
    """Returns the median time of a call in seconds, over the calls that fit into `seconds` (at least three),
    after one warm-up call."""
    evaluate()
    part.wait()
    found, end = [], time.perf_counter() + (min(seconds, 0.1) if part.toy else seconds)
    while len(found) < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        evaluate()
        part.wait()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


PARTS: dict[str, Callable[[Part], None]] = {
    "machine": machine,
    "noise": noise_bits,
    "goldens": goldens,
    "training": training,
    "memory": memory,
    "compiled": compiled,
    "speed": speed,
    "features": features,
    "rows": rows,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("file", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    cuda = torch.cuda.is_available() and not options.toy
    device = torch.device("cuda" if cuda else "cpu")
    PARTS[options.part](Part(device, not cuda, options.seconds, options.file))


if __name__ == "__main__":
    main()

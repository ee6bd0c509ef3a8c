"""Parts of `gpu.py` that check numbers on the device: random numbers, golden networks, a resumed training,
and batches that exceed the memory."""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import torch
from gpu_part import ERRORS, NARROW, PRECISIONS, Part, largest_error, median_seconds
from torch import Tensor

from dgflow.diffusion import noise
from dgflow.diffusion.acceleration import products
from dgflow.diffusion.batches import Batches
from dgflow.specs.spec import Precision


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
            seconds = median_seconds(part, lambda a=a: a @ a, 1.0)
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
                worst[case.name] = max(largest_error(outputs[name], arrays[name]) for name in outputs)
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
    error = largest_error(gradients[1], gradients[0].cpu())
    part.row(
        "a training batch in parts",
        parts=batches.parts,
        gradient_differs=error,
        wrong="" if batches.parts == 8 and error < 1e-4 else "wrong number of parts, or wrong gradient",
    )

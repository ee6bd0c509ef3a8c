"""Estimate the missing work of a plan in parameters, device-hours and bytes of weights.

Operations are either counted and divided by a device's published rate at an assumed utilisation, or a pilot
times one batch of each kind of work on this machine. Both omit data input and output, optimisers,
communication between devices, and waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dgflow.engine.plan import StepPlan
from dgflow.estimate.devices import UTILISATION, device_named
from dgflow.estimate.memory import MOMENTS, TrainingMemory, training_memory
from dgflow.estimate.operations import Networks, Operations
from dgflow.specs.spec import Precision
from dgflow.specs.step import SAMPLING_USES, NetworkStep, Use, Work
from dgflow.specs.train_step import TrainStep

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TENSOR_HEADER = 200  # bytes of a tensor's header: name, shape and offsets
_Key = tuple[str, Use, Precision]
BATCH_SECONDS = 1.0  # approximate duration of a pilot's batches
SLOW = 5.0  # seconds; if a first call takes longer, it is not repeated


@dataclass(frozen=True)
class Estimate:
    """The missing work of one step."""

    parameters: int  # parameters of the networks that the step fetches, trains or runs
    seconds: float  # duration on one device
    flops: float | None  # multiplications and additions; None for a pilot
    bytes: int | None  # stored weights in bytes; None for a step that stores none
    memory: TrainingMemory | None = None  # memory of a training, if operations are counted


@dataclass(frozen=True)
class Costs:
    """The missing work of a plan.

    Attributes:
        device: the device's short name.
        assumptions: further assumptions behind the numbers, for readers.
        steps: estimates by node key, for unfinished steps with networks.
        price: price per device-hour, if given.
        gpu_bytes: memory of the device in bytes; None for this machine.
    """

    device: str
    assumptions: str
    steps: dict[str, Estimate]
    price: float | None = None
    gpu_bytes: float | None = None


def counted(
    plans: Sequence[StepPlan], name: str, *, utilisation: float = UTILISATION, price: float | None = None
) -> Costs:
    """Estimate costs by the number of operations and the rate of the named device.

    Raises ValueError for a device that is not in the table, a utilisation outside (0, 1], and a network that
    cannot be counted here.
    """
    device = device_named(name)
    if not 0 < utilisation <= 1:
        raise ValueError(f"expected a utilisation above 0 and at most 1, found {utilisation}")
    networks = _Networks()
    operations = Operations(networks)

    def seconds(work: Work) -> float:
        flops, whole = operations.per_row(work), work.network.architecture.stays_float32
        convolutions, products = device.rates(work.precision, whole=whole)
        tera_seconds = flops.convolutions / convolutions + flops.products / products
        return work.times * tera_seconds / (1e12 * utilisation)

    steps = {}
    for plan, works in _unfinished(plans):
        estimate = networks.estimate(plan, works, sum(map(seconds, works)), operations.total(works))
        if isinstance(plan.step, TrainStep):
            estimate = replace(estimate, memory=training_memory(plan.step, networks.of(plan.step)))
        steps[plan.node.key] = estimate
    assumptions = (
        f"{device.title}, {device.memory_gb} GB: {utilisation:.0%} (--utilisation) of its peak, "
        f"{device.float32:,.4g} TFLOP/s in float32, "
        f"{device.tf32:,.4g} in TF32 (float32 convolutions) and {device.bfloat16:,.4g} in bfloat16"
    )
    return Costs(name.lower(), assumptions, steps, price, 1e9 * device.memory_gb)


def piloted(plans: Sequence[StepPlan], tell: Callable[[str], None], *, price: float | None = None) -> Costs:
    """Estimate costs by timing one batch of each kind of work on this machine, with fresh weights.

    The first batch is not counted, unless it takes more than five seconds. Raises ValueError for a network
    that cannot be built here.

    Args:
        tell: receives a line about each measurement.
    """
    import torch

    from dgflow.diffusion.acceleration import device

    own_device = device()
    threads = torch.get_num_threads()
    machine = f"this CPU with {threads} thread{'s' * (threads > 1)}"
    if own_device.type == "cuda":
        machine = torch.cuda.get_device_name()
    unfinished = list(_unfinished(plans))
    wanted = {_key(work): work for _, works in unfinished for work in works}
    known: dict[_Key, float] = {}
    # Grouped by network, so that one network is in memory at a time.
    for key, work in sorted(wanted.items(), key=lambda item: item[0][0]):
        rows, known[key] = _measured(work, own_device)
        tell(
            f"pilot: {work.use} of {work.network.title}, {work.precision}, {rows} at a time: "
            f"{known[key]:.3g} s each"
        )
    slow = _slow_bfloat16(list(wanted.values()), known, own_device, tell)
    networks, steps = _Networks(), {}
    for plan, works in unfinished:
        seconds = sum(work.times * known[_key(work)] for work in works)
        steps[plan.node.key] = networks.estimate(plan, works, seconds, None)
    assumptions = f"{machine}: one batch of everything timed, with fresh weights{slow}"
    return Costs("gpu" if own_device.type == "cuda" else "cpu", assumptions, steps, price)


def _slow_bfloat16(
    works: Sequence[Work], known: Mapping[_Key, float], device: torch.device, tell: Callable[[str], None]
) -> str:
    """A remark that compares bfloat16 with float32 for the most expensive network, if this CPU has no
    bfloat16 instructions; otherwise empty."""
    from dgflow.diffusion.bfloat16 import slow_bfloat16

    narrow = [work for work in works if work.precision == "bfloat16"]
    if not narrow or not (warning := slow_bfloat16()):
        return ""
    work = max(narrow, key=lambda work: work.times * known[_key(work)])
    _, seconds = _measured(replace(work, precision="float32"), device)
    ratio = known[_key(work)] / seconds
    tell(f"warning: {warning}")
    return (
        f". {work.use} of {work.network.title} takes {ratio:.1f} times as long in bfloat16 as in float32, "
        f"which takes {seconds:.3g} s each"
    )


def _key(work: Work) -> _Key:
    return work.network.fingerprint, work.use, work.precision


def _measured(work: Work, device: torch.device) -> tuple[int, float]:
    """Time a batch. Returns (rows of the batch, seconds per row)."""

    from dgflow.diffusion.acceleration import prepared
    from dgflow.diffusion.device_errors import is_out_of_memory
    from dgflow.estimate.exercise import timed

    network = work.network.fresh().to(device)
    if work.use in SAMPLING_USES:
        prepared(network, precision=work.precision, device=device)

    def batch(rows: int) -> float:
        return timed(work.network, network, work.use, rows, work.precision)

    rows, seconds = 1, batch(1)
    if seconds > SLOW:
        return rows, seconds
    seconds = batch(1)
    while rows < work.batch and seconds < BATCH_SECONDS / 2:
        more = min(2 * rows, work.batch)
        try:
            batch(more)
            rows, seconds = more, batch(more)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            break
    return rows, seconds / rows


class _Networks(Networks):
    """Networks on the meta device, and the cost of their work."""

    def estimate(
        self, plan: StepPlan, works: Sequence[Work], seconds: float, flops: float | None
    ) -> Estimate:
        steps = {work.network.fingerprint: work.network for work in works}
        heads = set(steps) - {work.network.fingerprint for work in works if work.use != "head-gradient"}
        kept = None
        if isinstance(plan.step, NetworkStep):
            steps[plan.step.fingerprint] = plan.step
            kept = self._kept(plan.step, plan.amount)
        run = [
            step.trained_part(self.of(step)) if key in heads else self.of(step) for key, step in steps.items()
        ]
        parameters = sum(value.numel() for network in run for value in network.parameters())
        return Estimate(parameters, seconds, flops, kept)

    def _kept(self, step: NetworkStep, parts: int) -> int:
        """The bytes of stored weights, and of a training's checkpoints at the ends of epochs."""
        from dgflow.runtime.training.checkpoints import KEPT

        part = step.trained_part(self.of(step))
        weights, learns = _file(part.state_dict().values()), _file(part.parameters())
        if step.folder == "results":
            return weights
        checkpoint = weights + (MOMENTS + step.averages) * learns
        return parts * weights + min(KEPT, len(step.parts(()))) * checkpoint


def _file(tensors: Iterable[Tensor]) -> int:
    """The size of a file of tensors in bytes."""
    return sum(value.numel() * value.element_size() + TENSOR_HEADER for value in tensors)


def _unfinished(plans: Sequence[StepPlan]) -> Iterator[tuple[StepPlan, list[Work]]]:
    """The unfinished steps that run, train or fetch a network, with their work."""
    for plan in plans:
        works = plan.work
        if works or (plan.missing and isinstance(plan.step, NetworkStep)):
            yield plan, works

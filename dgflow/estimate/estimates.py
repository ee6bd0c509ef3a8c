"""What is still to do of a plan in parameters, hours of a device and bytes of weights: by counting, or by
timing one batch of everything.

Counting takes a device's published rate and an assumed share of it; a pilot takes this machine as it is. Both
leave out reading and writing data, what optimisers do, talk between devices, and waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dgflow.engine.plan import StepPlan
from dgflow.estimate.costs import Use, Work, amount, work_of
from dgflow.estimate.devices import UTILISATION, device_named
from dgflow.specs.spec import Precision
from dgflow.specs.step import NetworkStep, TrainStep

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

MOMENTS = 2  # tensors that Adam keeps for every parameter, beside the number of its steps
TENSOR_HEADER = 200  # bytes of a name with shape and place, and of that number
BATCH_SECONDS = 1.0  # how long a batch of a pilot may take, about
SLOW = 5.0  # seconds of a first call after which a pilot does not ask again


@dataclass(frozen=True)
class Estimate:
    """Of what is missing of one step."""

    parameters: int  # of the networks that it fetches, trains or runs
    seconds: float  # of one device
    flops: float | None  # multiplications and additions; None of a pilot
    bytes: int | None  # of weights that are kept; None of a step that keeps none


@dataclass(frozen=True)
class Costs:
    """device: what the hours are of, short. assumptions: what else the numbers depend on. steps: by
    fingerprint, of those with networks that are not complete. price: money for an hour of the device, if it
    was told."""

    device: str
    assumptions: str
    steps: dict[str, Estimate]
    price: float | None = None


def counted(
    plans: Sequence[StepPlan], name: str, *, utilisation: float = UTILISATION, price: float | None = None
) -> Costs:
    """By operations, and what the device of that name does of them in a second.

    Raises ValueError for a device that is not in the table, a utilisation outside (0, 1], and a network that
    cannot be counted here.
    """
    device = device_named(name)
    if not 0 < utilisation <= 1:
        raise ValueError(f"expected a utilisation above 0 and at most 1, found {utilisation}")
    from dgflow.estimate.exercise import Flops, count

    networks, known = _Networks(), dict[tuple[str, Use], Flops]()

    def per_row(work: Work) -> Flops:
        key = (work.network.fingerprint, work.use)
        if key not in known:
            known[key] = count(work.network, networks.of(work.network), work.use)
        return known[key]

    def seconds(work: Work) -> float:
        flops, whole = per_row(work), work.network.network.stays_float32
        convolutions, products = device.rates(work.precision, whole=whole)
        return (
            work.times
            * (flops.convolutions / convolutions + flops.products / products)
            / (1e12 * utilisation)
        )

    steps = {}
    for made, works in _unfinished(plans):
        flops = sum(work.times * per_row(work).total for work in works)
        steps[made.step.fingerprint] = networks.estimate(made, works, sum(map(seconds, works)), flops)
    assumptions = (
        f"{device.title}, {device.memory_gb} GB: {utilisation:.0%} (--utilisation) of its peak, "
        f"{device.float32:,.4g} TFLOP/s in float32, "
        f"{device.tf32:,.4g} in TF32 (float32 convolutions) and {device.bfloat16:,.4g} in bfloat16"
    )
    return Costs(name.lower(), assumptions, steps, price)


def piloted(plans: Sequence[StepPlan], tell: Callable[[str], None], *, price: float | None = None) -> Costs:
    """By one batch of everything on this machine, with fresh weights, each timed after one that is not
    counted; `tell` hears of each.

    A call of more than five seconds is taken as it is. Raises ValueError for a network that cannot be built
    here.
    """
    import torch

    from dgflow.diffusion.acceleration import device

    place = device()
    threads = torch.get_num_threads()
    machine = (
        torch.cuda.get_device_name()
        if place.type == "cuda"
        else f"this CPU with {threads} thread{'s' * (threads > 1)}"
    )
    unfinished = list(_unfinished(plans))
    wanted: dict[tuple[str, Use, Precision], Work] = {}
    wanted |= {
        (work.network.fingerprint, work.use, work.precision): work
        for _, works in unfinished
        for work in works
    }
    known: dict[tuple[str, Use, Precision], float] = {}
    # By network, since one at a time is in memory.
    for key, work in sorted(wanted.items(), key=lambda item: item[0][0]):
        rows, known[key] = _measured(work, place)
        tell(
            f"pilot: {work.use} of {work.network.title}, {work.precision}, {rows} at a time: "
            f"{known[key]:.3g} s each"
        )
    networks, steps = _Networks(), {}
    for made, works in unfinished:
        seconds = sum(
            work.times * known[work.network.fingerprint, work.use, work.precision] for work in works
        )
        steps[made.step.fingerprint] = networks.estimate(made, works, seconds, None)
    return Costs(
        "gpu" if place.type == "cuda" else "cpu",
        f"{machine}: one batch of everything timed, with fresh weights",
        steps,
        price,
    )


def _measured(work: Work, place: torch.device) -> tuple[int, float]:
    """(rows of the batch, seconds a row)."""
    import torch

    from dgflow.diffusion.acceleration import prepared
    from dgflow.estimate.exercise import fresh, timed

    network = fresh(work.network).to(place)
    if work.use in ("forward", "gradient"):
        prepared(network, precision=work.precision, device=place)

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
        except torch.OutOfMemoryError:
            break
    return rows, seconds / rows


class _Networks:
    """Networks without memory, each built once."""

    def __init__(self) -> None:
        self._built: dict[str, nn.Module] = {}

    def of(self, step: NetworkStep) -> nn.Module:
        import torch

        from dgflow.estimate.exercise import fresh

        if step.fingerprint not in self._built:
            with torch.device("meta"):
                self._built[step.fingerprint] = fresh(step)
        return self._built[step.fingerprint]

    def estimate(
        self, made: StepPlan, works: Sequence[Work], seconds: float, flops: float | None
    ) -> Estimate:
        steps = {work.network.fingerprint: work.network for work in works}
        if isinstance(made.step, NetworkStep):
            steps[made.step.fingerprint] = made.step
        parameters = sum(value.numel() for step in steps.values() for value in self.of(step).parameters())
        return Estimate(parameters, seconds, flops, self._kept(made))

    def _kept(self, made: StepPlan) -> int | None:
        """Every epoch's weights, and the checkpoints, which hold the optimiser's moments and averages too."""
        step = made.step
        if not isinstance(step, NetworkStep):
            return None
        part = step.trained_part(self.of(step))
        weights = _file(part.state_dict().values())
        if not isinstance(step, TrainStep):
            return weights
        from dgflow.runtime.training.loop import KEPT_CHECKPOINTS

        learns = _file(part.parameters())
        averages = learns if getattr(step, "ema_halflife", None) else 0
        return amount(made) * weights + min(KEPT_CHECKPOINTS, step.epochs) * (
            weights + MOMENTS * learns + averages
        )


def _file(tensors: Iterable[Tensor]) -> int:
    """Bytes of a file of them."""
    return sum(value.numel() * value.element_size() + TENSOR_HEADER for value in tensors)


def _unfinished(plans: Sequence[StepPlan]) -> Iterator[tuple[StepPlan, list[Work]]]:
    """The steps that run, train or fetch a network, with what they do with it."""
    for made in plans:
        works = work_of(made)
        if works or (made.missing and isinstance(made.step, NetworkStep)):
            yield made, works

"""Guidance in the steps of diffusers' schedulers.

A pipeline passes two values to `scheduler.step`: the network's prediction, after classifier-free guidance and
other changes, and the state at which the network was evaluated. Guidance needs only these, so it works with
every loop unchanged.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dgflow.diffusion.guidance import Correction, GuidanceTerm, Point, guide

VARIANCE_PRESERVING = (
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "SASolverScheduler",
)
"""Schedulers whose state is y = x / sqrt(1 + sigma^2)."""

VARIANCE_EXPLODING = (
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "EDMEulerScheduler",
    "EDMDPMSolverMultistepScheduler",
)
"""Schedulers whose state is x = x0 + sigma * z. The loop scales its first noise and the network's input."""

PREDICTIONS = ("epsilon", "v_prediction", "sample")


@contextmanager
def guided_steps(
    scheduler: Any, guidance: Sequence[GuidanceTerm], class_labels: Tensor | None = None
) -> Iterator[None]:
    """A context in which `scheduler.step` adds the gradients of `guidance` to the network's prediction.

    The prediction becomes epsilon - sigma * sum of gradients with respect to x = x0 + sigma * z (Dhariwal &
    Nichol 2021, algorithm 2), or its equivalent in the scheduler's `prediction_type`. The scheduler clips
    afterwards. For `DDPMScheduler` the mean is shifted instead, after the clip, by variance * sum of
    gradients with respect to y (algorithm 1), as in `dgflow.diffusion.ddpm.ddpm`. Its last step adds no noise
    and is not shifted.

    `Point.step` counts the steps, and `Point.order` is 2 in the second evaluation of a
    `HeunDiscreteScheduler` step. A step without a gradient equals the plain step bit for bit.

    Args:
        scheduler: one of `VARIANCE_PRESERVING` or `VARIANCE_EXPLODING`.
        guidance: gradient terms, such as `DiscriminatorTerm`, with networks on the device of the state.
        class_labels: [B], passed to the terms. A state of 2 B samples holds B samples twice, as in
            `DiTPipeline` with classifier-free guidance. Guidance is evaluated on the first B.

    Raises:
        ValueError: the scheduler or its prediction type is not supported, or an entry is not a gradient term;
            in a step, the number of samples is not a multiple of the number of labels.
    """
    _check(scheduler, guidance)
    step, own = scheduler.step, vars(scheduler).get("step")
    guided = _Guided(scheduler, guidance, class_labels)

    @functools.wraps(step)
    def guided_step(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        gradient, sigma = guided.gradient(timestep, sample)
        if gradient is None:
            return step(model_output, timestep, sample, *args, **kwargs)
        if _is(scheduler, ("DDPMScheduler",)):
            variance = _variance(scheduler, int(timestep), model_output, sample)
            result = step(model_output, timestep, sample, *args, **kwargs)
            moved = _added(result[0], variance * math.sqrt(1.0 + sigma**2) * gradient)
            if isinstance(result, tuple):
                return moved, *result[1:]
            result.prev_sample = moved
            return result
        predicted, rest = model_output.tensor_split([sample.shape[1]], dim=1)
        predicted = _added(predicted, _response(scheduler, sigma) * gradient)
        return step(torch.cat([predicted, rest], dim=1), timestep, sample, *args, **kwargs)

    scheduler.step = guided_step
    try:
        yield
    finally:
        if own is None:
            del scheduler.step
        else:
            scheduler.step = own


class _Guided:
    """Computes the gradients of one run of a scheduler, step by step."""

    def __init__(self, scheduler: Any, guidance: Sequence[GuidanceTerm], class_labels: Tensor | None) -> None:
        self.scheduler, self.guidance, self.class_labels = scheduler, guidance, class_labels
        self.step = -1

    def gradient(self, timestep: Any, sample: Tensor) -> tuple[Tensor | None, float]:
        """The sum of gradients with respect to x, float64, or None if it is zero for all samples; and
        sigma."""
        order = 1 if getattr(self.scheduler, "state_in_first_order", True) else 2
        self.step += order == 1
        sigma = _sigma(self.scheduler, timestep)
        if not 0.0 < sigma < math.inf:  # without noise or without signal, there is no gradient
            return None, sigma
        labels = self.class_labels
        batch = len(sample) if labels is None else len(labels)
        if batch == 0 or len(sample) % batch:
            raise ValueError(
                f"expected class_labels of the {len(sample)} samples in a step, or of an equal part of them, "
                f"found {batch} labels: pass one label per sample"
            )
        x = sample[:batch].double()
        if _is(self.scheduler, VARIANCE_PRESERVING):
            x = x * math.sqrt(1.0 + sigma**2)
        sigma_B = x.new_full((batch,), sigma)
        gradient = guide(self.guidance, Point(x, sigma_B, labels, self.step, order, (sigma, sigma))).gradient
        copies = len(sample) // batch
        return None if gradient is None else gradient.repeat(copies, *[1] * (x.ndim - 1)), sigma


def _sigma(scheduler: Any, timestep: Any) -> float:
    """The EDM noise level of the state at which the network was evaluated."""
    if not hasattr(scheduler, "step_index"):
        abar = _alphas_cumprod(scheduler)[int(timestep)]
        return math.sqrt((1.0 - abar) / abar) if abar > 0.0 else math.inf
    index = scheduler.step_index
    if index is None:  # before the first step
        index = scheduler.begin_index
    if index is None:
        index = scheduler.index_for_timestep(timestep)
    return float(scheduler.sigmas[index])


def _alphas_cumprod(scheduler: Any) -> list[float]:
    """abar of every timestep, in float64, since diffusers' float32 values lose four digits of 1 - abar."""
    return torch.cumprod(1.0 - scheduler.betas.double(), dim=0).tolist()


def _response(scheduler: Any, sigma: float) -> float:
    """The change of the network's prediction for a gradient of 1, which changes the denoised image by
    sigma^2."""
    if hasattr(scheduler, "precondition_outputs"):  # EDM's: denoised is affine in the prediction
        return sigma**2 / float(scheduler.precondition_outputs(0.0, 1.0, sigma))
    kind = scheduler.config.prediction_type
    return {"epsilon": -sigma, "v_prediction": -sigma * math.sqrt(1.0 + sigma**2), "sample": sigma**2}[kind]


def _variance(scheduler: Any, timestep: int, model_output: Tensor, sample: Tensor) -> Tensor | float:
    """The variance of the noise in a DDPM step: one number, or one per value if the network learned it."""
    alphas_cumprod, previous = _alphas_cumprod(scheduler), int(scheduler.previous_timestep(timestep))
    abar, before = alphas_cumprod[timestep], alphas_cumprod[previous] if previous >= 0 else 1.0
    large = 1.0 - abar / before
    small = max(large * (1.0 - before) / (1.0 - abar), 1e-20)  # bounded as in diffusers
    kind = scheduler.variance_type
    if timestep == 0 or kind.startswith("fixed_small"):
        return small
    if kind.startswith("fixed"):
        return large
    v = model_output[:, sample.shape[1] :].double()
    if kind == "learned":
        return v
    return (math.log(small) + 0.5 * (v + 1.0) * math.log(large / small)).exp()


def _added(value: Tensor, change: Tensor) -> Tensor:
    return (value.double() + change).to(value.dtype)


def _is(scheduler: Any, names: Sequence[str]) -> bool:
    return any(base.__name__ in names for base in type(scheduler).__mro__)


def _check(scheduler: Any, guidance: Sequence[GuidanceTerm]) -> None:
    known = (*VARIANCE_PRESERVING, *VARIANCE_EXPLODING)
    if not _is(scheduler, known):
        raise ValueError(
            f"expected a scheduler whose noise levels are known ({', '.join(known)}), found "
            f"{type(scheduler).__name__}: use one of these, as in DDIMScheduler.from_config(scheduler.config)"
        )
    kind = scheduler.config.prediction_type
    if kind not in PREDICTIONS or getattr(scheduler.config, "use_flow_sigmas", False):
        found = kind if kind not in PREDICTIONS else "use_flow_sigmas"
        raise ValueError(
            f"expected a scheduler of a diffusion, with prediction_type {', '.join(PREDICTIONS)}, found "
            f"{found}: guidance of flows is not supported"
        )
    if not isinstance(guidance, Sequence):
        raise ValueError(f"expected a list of terms, found {type(guidance).__name__}: use guidance=[term]")
    for term in guidance:
        if isinstance(term, torch.nn.Module) or not callable(term):
            raise ValueError(
                f"expected gradient terms, found {type(term).__name__}: make one of a discriminator with "
                "DiscriminatorTerm(module), or with .term(weight=1.0) of a network that dgflow opened"
            )
        if isinstance(term, Correction):
            raise ValueError(
                f"expected gradient terms, found {type(term).__name__}, which corrects the denoised image: "
                "use it with the samplers of dgflow.diffusion"
            )

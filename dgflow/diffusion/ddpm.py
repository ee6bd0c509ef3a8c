"""The samplers of discrete diffusions, guided: DDPM's ancestral one and DDIM.

The state y is in variance-preserving scaling, kept in float64; networks see it in float32. A step's index and
all coefficients are on the host. Guidance terms are asked at Point.x = y sqrt(1 + sigma^2), Point.step
counts from 0, the noisiest, and Point.order is 1. A term's boost multiplies its gradient; its churn does not
apply, as these samplers add their own noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from dgflow.diffusion.corrections import scaled_again
from dgflow.diffusion.discrete import DiscreteSchedule
from dgflow.diffusion.guidance import Advice, Guide, LogRatios, Point, first_of, guide, guided, latest
from dgflow.diffusion.samplers import Noise, Predictor, Sample, noised

Move = Callable[[int, int, Tensor, Tensor, Tensor | None, Tensor, Advice], Tensor]
"""(step, index, y, denoised, v, sigma [B], guidance) -> y at the next cleaner index."""


@torch.no_grad()
def ddpm(
    predictor: Predictor,
    latents: Tensor,
    schedule: DiscreteSchedule,
    *,
    noise: Noise,
    images: Tensor | None = None,
    class_labels: Tensor | None = None,
    guidance: Sequence[Guide] = (),
    clip_denoised: bool = True,
    fixed_variance: Literal["small", "large"] = "small",
) -> Sample:
    """Ancestral sampling (Ho et al. 2020, algorithm 2; learned variance of Nichol & Dhariwal 2021, equation
    15), guided.

    Advice moves the mean by variance * sum of gradients with respect to y (Dhariwal & Nichol 2021,
    algorithm 1).

    Args:
        latents: unit normals [B, ...], the state at the noisiest index.
        images: clean images [B, ...] that are diffused to the noisiest index, with the latents as noise; None
            for none.
        noise: unit normals [B, ...] for a step, asked for in every step but the last (the originals draw
            there, too, and drop it).
        class_labels: passed on to predictor and guidance.
        clip_denoised: clip the denoised image to [-1, 1]: yes for ADM's images, no for latents.
        fixed_variance: for a predictor without v: "small", the posterior's, or "large", beta.
    """
    if fixed_variance not in ("small", "large"):
        raise ValueError(f'expected fixed_variance "small" or "large", found {fixed_variance!r}')
    small = schedule.posterior_log_variance_clipped
    betas = [math.log(beta) for beta in schedule.betas]
    # At index 0 the posterior's: no noise is added there, and guidance moves the mean by it.
    fixed = small if fixed_variance == "small" else [small[0], *betas[1:]]

    def move(
        step: int, index: int, y: Tensor, denoised: Tensor, v: Tensor | None, sigma: Tensor, advice: Advice
    ) -> Tensor:
        if v is None:
            log_variance = torch.full_like(y, fixed[index])
        else:
            log_variance = small[index] + 0.5 * (v.double() + 1.0) * (betas[index] - small[index])
        mean = schedule.posterior_mean_coef1[index] * denoised + schedule.posterior_mean_coef2[index] * y
        if advice.gradient is not None:
            mean = mean + log_variance.exp() * advice.gradient / math.sqrt(schedule.alphas_cumprod[index])
        return mean if index == 0 else mean + (0.5 * log_variance).exp() * noise(step).double()

    return _sample(predictor, latents, schedule, images, class_labels, guidance, clip_denoised, move)


@torch.no_grad()
def ddim(
    predictor: Predictor,
    latents: Tensor,
    schedule: DiscreteSchedule,
    *,
    eta: float = 0.0,
    noise: Noise | None = None,
    images: Tensor | None = None,
    class_labels: Tensor | None = None,
    guidance: Sequence[Guide] = (),
    clip_denoised: bool = True,
) -> Sample:
    """DDIM (Song et al. 2021, equation 12), guided: epsilon - sqrt(1 - abar) * sum of gradients (Dhariwal &
    Nichol 2021, algorithm 2).

    The image that guided epsilon points at, denoised + sigma^2 * sum of gradients with respect to x, is not
    clipped again, as published.

    Args:
        eta: 0 is deterministic, 1 has the noise of ancestral sampling; in between, the standard deviation is
            multiplied by it.
        noise: unit normals [B, ...] for a step, asked for if eta > 0, except in the last step.
        others: as in `ddpm`. v is not used.
    """
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"expected 0 <= eta <= 1, found {eta}")
    if eta > 0.0 and noise is None:
        raise ValueError(
            f"expected noise, as eta = {eta} adds some: pass a function of the step, or set eta to 0"
        )

    def move(
        step: int, index: int, y: Tensor, denoised: Tensor, v: Tensor | None, sigma: Tensor, advice: Advice
    ) -> Tensor:
        abar, before = schedule.alphas_cumprod[index], schedule.alphas_cumprod_prev[index]
        std = eta * math.sqrt((1 - before) / (1 - abar) * (1 - abar / before))
        denoised = guided(advice, sigma, denoised)
        if advice.gradient is not None:
            denoised = scaled_again(guidance, y / math.sqrt(abar), sigma, denoised)
        epsilon = (y - math.sqrt(abar) * denoised) / math.sqrt(1 - abar)
        y = math.sqrt(before) * denoised + math.sqrt(1 - before - std**2) * epsilon
        return y if std == 0.0 or noise is None else y + std * noise(step).double()

    return _sample(predictor, latents, schedule, images, class_labels, guidance, clip_denoised, move)


def _sample(
    predictor: Predictor,
    latents: Tensor,
    schedule: DiscreteSchedule,
    images: Tensor | None,
    class_labels: Tensor | None,
    guidance: Sequence[Guide],
    clip_denoised: bool,
    move: Move,
) -> Sample:
    """From the noisiest index to 0: predict epsilon, denoise, ask for guidance, `move`."""
    y = latents.double()
    if images is not None:
        abar = schedule.alphas_cumprod[-1]
        y = noised(latents, math.sqrt(1 - abar), math.sqrt(abar) * images)
    ones = torch.ones(y.shape[0], dtype=torch.float64, device=y.device)
    last: LogRatios = [None] * len(guidance)  # each sample's last log-ratio inside the window
    num_steps, guidance_nfe = len(schedule.timestep_map), 0
    for step in range(num_steps):
        index = num_steps - 1 - step
        level = schedule.sigmas[index]
        sigma = ones * level
        timestep_B = ones * schedule.timestep_map[index]
        epsilon, v = predictor(y.float(), timestep_B.float(), class_labels)
        x = y / math.sqrt(schedule.alphas_cumprod[index])
        denoised = x - level * epsilon.double()
        advice = guide(guidance, Point(x, sigma, class_labels, step, 1, (level, level), denoised=denoised))
        denoised = advice.denoised.clamp(-1.0, 1.0) if clip_denoised else advice.denoised
        guidance_nfe += advice.nfe
        last = latest(last, advice.log_ratios)
        y = move(step, index, y, denoised, v, sigma, advice)
    return Sample(x=y, nfe=num_steps, guidance_nfe=guidance_nfe, log_ratio=first_of(last))

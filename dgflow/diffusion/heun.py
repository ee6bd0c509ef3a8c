"""EDM's stochastic sampler, guided: Heun's method with churn (Karras et al. 2022, Algorithm 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from dgflow.diffusion.guidance import Guide, LogRatios, Point, boosts_of, first_of, guide, latest
from dgflow.diffusion.samplers import Churn, Denoiser, Noise, RoundSigma, Sample, noised, rounded
from dgflow.diffusion.times import per_sample


def edm_sigmas(
    num_steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> tuple[float, ...]:
    """The noise levels of Karras et al. 2022, equation 5: `num_steps` of them from sigma_max down to
    sigma_min, then 0.0."""
    if num_steps < 2 or not 0.0 < sigma_min < sigma_max < math.inf or not rho > 0.0:
        found = f"num_steps={num_steps}, sigma_min={sigma_min}, sigma_max={sigma_max}, rho={rho}"
        raise ValueError(f"expected num_steps >= 2, 0 < sigma_min < sigma_max and rho > 0, found {found}")
    top, bottom = sigma_max ** (1.0 / rho), sigma_min ** (1.0 / rho)
    return *((top + i / (num_steps - 1) * (bottom - top)) ** rho for i in range(num_steps)), 0.0


@torch.no_grad()
def heun(
    denoiser: Denoiser,
    latents: Tensor,
    sigmas: Sequence[float],
    *,
    images: Tensor | None = None,
    class_labels: Tensor | None = None,
    guidance: Sequence[Guide] = (),
    churn_noise: Noise | None = None,
    churn_steps: int | None = None,
    round_sigma: RoundSigma | None = None,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = math.inf,
    S_noise: float = 1.0,
) -> Sample:
    """Heun's method with churn, Algorithm 2 of Karras et al. 2022, guided: d = (x - denoised) / sigma - sigma
    * sum of gradients.

    Args:
        latents: unit normals [B, ...], scaled by sigmas[0] in here.
        sigmas: falling noise levels; a last one of 0 ends with an Euler step.
        images: clean images [B, ...] to which the scaled latents are added; None for none, as published.
        round_sigma: for a network that knows some levels only; rounds the schedule and levels raised by
            churn.
        class_labels: passed on to denoiser and guidance.
        guidance: terms whose gradients are added up; see `guidance.GuidanceTerm`.
        churn_noise: unit normals [B, ...] for a step. Called at most once per step and only where noise can
            be added; a stream with state has to skip the other steps (the originals draw in every step).
        churn_steps: number of steps that S_churn is divided among, for the last levels of a longer schedule;
            None for those of `sigmas`.
        S_churn, S_min, S_max, S_noise: as in the paper. A term's boost replaces S_churn and S_noise for the
            samples that it churns.

    Raises ValueError for levels that do not fall, and for churn without `churn_noise`.
    """
    levels = rounded([float(sigma) for sigma in sigmas], round_sigma, latents.device)
    falling = all(a > b for a, b in pairwise(levels))
    if len(levels) < 2 or not falling or levels[-1] < 0.0 or not math.isfinite(levels[0]):
        raise ValueError(f"expected two or more falling, finite noise levels >= 0, found {levels}")
    options = {"S_churn": S_churn, "S_min": S_min, "S_max": S_max, "S_noise": S_noise}
    boosts, device = boosts_of(guidance), latents.device
    churn = Churn(levels, boosts, churn_noise, round_sigma, device, steps=churn_steps, **options)

    x = noised(latents, levels[0], images)
    ones = torch.ones(len(latents), dtype=torch.float64, device=x.device)
    previous: LogRatios = [None] * len(guidance)  # of the step before; None if a term was not evaluated
    last: LogRatios = [None] * len(guidance)  # each sample's last log-ratio inside the window
    nfe = guidance_nfe = 0

    def slope(
        x: Tensor, sigma: Tensor, bounds: tuple[float, float], step: int, order: int
    ) -> tuple[Tensor, LogRatios]:
        nonlocal nfe, guidance_nfe
        sigma_x = per_sample(sigma, x)
        denoised = denoiser(x, sigma, class_labels).double()
        nfe += 1
        began = levels[step]
        point = Point(
            x, sigma, class_labels, step, order, bounds, None, denoised, ones * began, (began, began)
        )
        advice = guide(guidance, point)
        guidance_nfe += advice.nfe
        d = (x - advice.denoised) / sigma_x
        if advice.gradient is not None:
            d = d - sigma_x * advice.gradient
        return d, advice.log_ratios

    for step, (sigma_cur, sigma_next) in enumerate(pairwise(levels)):
        sigma, sigma_high = ones * sigma_cur, sigma_cur
        raised = churn(step, ones, previous)
        if raised is not None and churn_noise is not None:
            sigma, sigma_high = raised.sigma, raised.high
            x = x + per_sample(raised.added, x) * churn_noise(step).double()
        d, previous = slope(x, sigma, (sigma_cur, sigma_high), step, 1)
        last = latest(last, previous)
        h = per_sample(sigma_next - sigma, x)
        x_next = x + h * d
        if sigma_next > 0.0:
            d_next, _ = slope(x_next, ones * sigma_next, (sigma_next, sigma_next), step, 2)
            x_next = x + h * (0.5 * d + 0.5 * d_next)
        x = x_next
    return Sample(x=x, nfe=nfe, guidance_nfe=guidance_nfe, log_ratio=first_of(last))

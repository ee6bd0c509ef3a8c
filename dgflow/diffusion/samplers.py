"""What all samplers share: the form of a denoiser and of a noise predictor, the result, and churn.

A sampler is a plain function of (denoiser or predictor, latents, schedule), one a file: `heun`, `ablation`, `ddpm`, `rk45`. Each promises
float64 state; a schedule of Python floats and per-sample noise levels on the device, so that no step waits for the device; and that a
sample's result does not depend on its batch mates (as far as the networks' own arithmetic does not). Networks, random numbers and guidance
terms are the caller's; nothing is drawn here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgflow.diffusion.guidance import Boost

Denoiser = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(x [B, ...] float64, sigma [B] float64, class labels) -> the expected clean x0, like x in shape, of any float dtype."""

Predictor = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""(y [B, ...] float32, variance-preserving scaling y = x / sqrt(1 + sigma^2); time [B] float32 in the network's own unit; class labels) ->
(epsilon: the noise in y, like y; v: like y, where between the two bounds of the reverse step's log variance it lies, -1 to 1, None for a
network that learns none). What ADM, DiT, NCSN++ and LSGM's prior are; `denoisers` makes a `Denoiser` of it."""

Noise = Callable[[int], Tensor]
"""Number of a step -> unit normals [B, ...]. A counter-based stream answers in any order; one with state, in rising order."""

RoundSigma = Callable[[Tensor], Tensor]
"""Noise levels, any shape, float64 -> the nearest ones that a network knows; on the device, without waiting for it."""

MAX_GAMMA = math.sqrt(2.0) - 1.0


@dataclass(frozen=True)
class Sample:
    """What a sampler returns.

    x: [B, ...] float64, the samples, not clipped. nfe: evaluations of the denoiser for each sample. guidance_nfe: evaluations of guidance
    terms. log_ratio: [B] float64, the first-order log-ratio of each sample in its last step inside the window, by the first term that has
    one; OUTSIDE_LOG_RATIO (1e7) for a sample that was never inside; None when no term ever gave one.
    """

    x: Tensor
    nfe: int
    guidance_nfe: int
    log_ratio: Tensor | None


def rounded(levels: Sequence[float], round_sigma: RoundSigma | None, device: torch.device) -> list[float]:
    """Levels as the network knows them, but for a last one of 0, on the host: waits for the device, once before the first step."""
    if round_sigma is None:
        return list(levels)
    known = levels[:-1] if levels[-1] == 0.0 else levels
    return [*round_sigma(torch.tensor(known, dtype=torch.float64, device=device)).tolist(), *levels[len(known) :]]


def churn(
    ones: Tensor,
    S_churn: float,
    S_noise: float,
    num_steps: int,
    step: int,
    boosts: Sequence[Boost | None],
    previous: Sequence[Tensor | None],
) -> tuple[Tensor, Tensor, float]:
    """Per-sample gamma and noise scale [B] of a step, and the largest gamma that is possible, as a host float."""
    gamma_max = min(S_churn / num_steps, MAX_GAMMA)
    gamma, noise_scale = ones * gamma_max, ones * S_noise
    for boost, log_ratio in zip(boosts, previous, strict=True):
        if boost is not None and log_ratio is not None and step % boost.churn_period == 0:
            boosted = min(boost.S_churn / num_steps, MAX_GAMMA)
            gamma = torch.where(log_ratio < 0, boosted, gamma)
            noise_scale = torch.where(log_ratio < 0, boost.S_noise, noise_scale)
            gamma_max = max(gamma_max, boosted)
    return gamma, noise_scale, gamma_max

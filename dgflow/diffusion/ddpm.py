"""Guided samplers of discrete diffusions: ancestral sampling (DDPM) and DDIM.

The state y is in variance-preserving scaling, kept in float64; networks see it in float32. A step's index and
all coefficients are on the host. Guidance terms are evaluated at Point.x = y sqrt(1 + sigma^2); Point.step
counts from 0, the noisiest; Point.order is 1. A term's boost multiplies its gradient; the boost's churn does
not apply, as these samplers add their own noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from dgflow.diffusion.ancestral import DDIMPath, DDPMPath
from dgflow.diffusion.discrete import DiscreteSchedule
from dgflow.diffusion.guidance import Guide
from dgflow.diffusion.paths import walk
from dgflow.diffusion.samplers import Noise, Predictor, Sample


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

    Guidance shifts the mean by variance * sum of gradients with respect to y (Dhariwal & Nichol 2021,
    algorithm 1).

    Args:
        latents: unit normals [B, ...], the state at the noisiest index.
        images: clean images [B, ...], diffused to the noisiest index with the latents as noise; None to start
            from noise.
        noise: unit normals [B, ...] by step, drawn in every step except the last (the original code draws
            there too, and discards the draw).
        class_labels: passed to predictor and guidance.
        clip_denoised: clip the denoised image to [-1, 1]: for ADM's images, not for latents.
        fixed_variance: variance for a predictor without v: "small" is the posterior's, "large" is beta.
    """
    path = DDPMPath(predictor, schedule, guidance, clip_denoised, fixed_variance=fixed_variance)
    return walk(path, latents, images=images, class_labels=class_labels, noise=noise)


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

    The image of the guided epsilon, denoised + sigma^2 * sum of gradients with respect to x, is not clipped
    again, as published.

    Args:
        eta: factor on the standard deviation of ancestral sampling's noise; 0 is deterministic.
        noise: unit normals [B, ...] by step, drawn if eta > 0, except in the last step.
        others: as in `ddpm`. v is not used.
    """
    path = DDIMPath(predictor, schedule, guidance, clip_denoised, eta=eta)
    if eta > 0.0 and noise is None:
        raise ValueError(
            f"expected noise, since eta = {eta} adds noise, found None: pass a function of the step, or set "
            "eta to 0"
        )
    return walk(path, latents, images=images, class_labels=class_labels, noise=noise)

"""The interfaces of denoiser, noise predictor and result that all samplers share.

A sampler is a plain function of (denoiser or predictor, latents, schedule). Its state is float64; its
schedule is Python floats, and its noise levels are per sample on the device, so no step waits for the device.
A sample's result does not depend on the rest of its batch (up to the networks' own arithmetic). The caller
provides networks, random numbers and guidance terms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgflow.diffusion.times import per_sample
from dgflow.specs.spec import Grid

Denoiser = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(x [B, ...] float64, sigma [B] float64, class labels) -> the expected clean x0, like x in shape, of any
float dtype."""

Predictor = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""(y [B, ...] float32, variance-preserving scaling y = x / sqrt(1 + sigma^2); time [B] float32 in the
network's own unit; class labels) -> (epsilon: the noise in y, like y; v: like y, the position of the reverse
step's log variance between its two bounds, -1 to 1, None for a network that learns none). ADM, DiT, NCSN++
and LSGM's prior have this form; `denoisers` makes a `Denoiser` of it."""

Noise = Callable[[int], Tensor]
"""Step number -> unit normals [B, ...]; a stateful stream accepts increasing numbers only."""

RoundSigma = Callable[[Tensor], Tensor]
"""Noise levels, any shape, float64 -> the nearest levels of a network, without a host sync."""


@dataclass(frozen=True)
class Sample:
    """The result of a sampler.

    Args:
        x: the samples [B, ...] float64, not clipped.
        nfe: evaluations of the denoiser per sample.
        guidance_nfe: evaluations of guidance terms.
        log_ratio: [B] float64, the first-order log-ratio of each sample in its last step inside the window,
            by the first term that has one; OUTSIDE_LOG_RATIO (1e7) for a sample that was never inside; None
            if no term ever returned one.
        guide_nfe: evaluations of each entry of guidance, `guidance_nfe` in total; None if the sampler does
            not count them.
        evaluations: evaluations of the denoiser and of each entry in which each sample took part, int64 [B, 1
            + entries]; None if every sample took part in all.
    """

    x: Tensor
    nfe: int
    guidance_nfe: int
    log_ratio: Tensor | None
    guide_nfe: tuple[int, ...] | None = None
    evaluations: Tensor | None = None

    def counts(self, entries: int) -> Tensor:
        """`evaluations` for `entries` entries of guidance.

        Raises ValueError for several entries if the sampler does not count them separately.
        """
        if self.evaluations is not None:
            return self.evaluations
        guides = (self.guidance_nfe,) * entries if self.guide_nfe is None else self.guide_nfe
        if entries > 1 and self.guide_nfe is None:
            raise ValueError(
                f"expected a sampler that counts the evaluations of each of {entries} entries of guidance "
                "(Sample.guide_nfe), found one that does not"
            )
        return torch.tensor([self.nfe, *guides]).expand(len(self.x), -1)


@dataclass(frozen=True)
class Start:
    """Clean images from which a sampler continues (SDEdit, Meng et al. 2022): x = images + level * latents at
    its first level.

    Args:
        images: [B, ...] float64, in the units of the denoiser's clean x0.
        sigma: the first noise level. A sampler with a discrete network or schedule begins at the nearest
            level.
        grid: the levels below it, see `Grid`; unused by an adaptive solver.
    """

    images: Tensor
    sigma: float
    grid: Grid = "tail"


def noised(latents: Tensor, level: float | Tensor, images: Tensor | None) -> Tensor:
    """The state [B, ...] float64 at a noise level, a number or [B], from unit normals, added to clean images
    if given.
    """
    scale = per_sample(level, latents) if isinstance(level, Tensor) else level
    noise = latents.double() * scale
    return noise if images is None else images.double() + noise


def rounded(levels: Sequence[float], round_sigma: RoundSigma | None, device: torch.device) -> list[float]:
    """Round levels for the network, except a last level of 0, on the host; waits for the device once, before
    the first step.
    """
    if round_sigma is None:
        return list(levels)
    positive = levels[:-1] if levels[-1] == 0.0 else levels
    return [
        *round_sigma(torch.tensor(positive, dtype=torch.float64, device=device)).tolist(),
        *levels[len(positive) :],
    ]

"""Published forms that dgflow does not use, for comparisons with the originals: importance-sampled times with
their float32 rounding, and a guidance window for the whole batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
from dgflow.diffusion.guidance import OUTSIDE_LOG_RATIO, Point
from dgflow.diffusion.guidance_settings import Boost
from dgflow.diffusion.times import LINEAR_VP, LinearVP, tau_from_sigma


@dataclass(frozen=True)
class BatchWindow:
    """`term` in the published window: open or closed for the whole batch by the batch's smallest tau, also
    above 1."""

    term: DiscriminatorTerm

    @property
    def boost(self) -> Boost | None:
        return self.term.boost

    def __call__(self, point: Point) -> tuple[Tensor | None, Tensor | None]:
        settings = self.term.settings
        low, high = settings.window[0], settings.tau_max
        first, last = map(tau_from_sigma, point.sigma_bounds)
        if last < low or first > high:
            return None, None
        is_open = settings.model_copy(update={"tau_min": 0.0, "after_timestep": None, "tau_max": 1.0})
        gradient, log_ratio = replace(self.term, settings=is_open)(point)
        if gradient is None or log_ratio is None:
            return None, None
        smallest = tau_from_sigma(point.sigma.double()).min()
        inside = (smallest >= low) & (smallest <= high)
        return torch.where(inside, gradient, 0.0), torch.where(inside, log_ratio, OUTSIDE_LOG_RATIO)


def importance_tau_published(u: Tensor, tau_min: float = 1e-5, vp: LinearVP = LINEAR_VP) -> Tensor:
    """Returns `times.importance_tau` with the rounding of the published code, which draws in float32.

    log(1 - exp(-B)) + B and log(1 + exp(.)) cancel in float32: the bound at tau_min = 1e-5 is off by 0.012 in
    log(sigma^2), and the smallest fifth of the draws takes only some 900 values, with relative errors of up
    to 10 %.
    """
    low, high = importance_range_published(tau_min, vp)
    total = torch.log(1.0 + torch.exp((high - low) * u.float() + low))
    return (-vp.beta_0 + torch.sqrt(vp.beta_0**2 + 2.0 * vp.slope * total)) / vp.slope


def importance_range_published(tau_min: float = 1e-5, vp: LinearVP = LINEAR_VP) -> tuple[Tensor, Tensor]:
    """Returns log(sigma^2) at tau_min and at 1 with the published rounding, 0-d float32; their difference is
    the published constant Z."""

    def antiderivative(tau: float) -> Tensor:
        total = vp.beta_0 * torch.tensor(tau) + vp.slope * torch.tensor(tau) ** 2 / 2
        return torch.log(1.0 - torch.exp(-total)) + total

    return antiderivative(tau_min), antiderivative(1.0)

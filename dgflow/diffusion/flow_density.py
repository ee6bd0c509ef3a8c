"""The log-density of samples of a score's probability-flow ODE, with the exact divergence.

Along dx/ds = -sigma^2 S(x, sigma), s = log sigma, the log-density changes by sigma^2 div S per unit of s (the
instantaneous change of variables, Chen et al. 2018), so log p(x) at the lowest level is the log-density of
the initial Gaussian at the highest level minus the integral of sigma^2 div S in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from dgflow.diffusion.discriminator_guidance import LogRatio
from dgflow.diffusion.times import TimeMap, tau_from_sigma

Field = Callable[[Tensor, float], tuple[Tensor, Tensor]]
"""(x [B, d], sigma) -> (the score S [B, d], its divergence [B]), float64."""


def flow_log_density(field: Field, x: Tensor, levels: Sequence[float]) -> Tensor:
    """log p(x) [B] of samples that the ODE of `field` draws from N(0, levels[-1]^2), at noise levels[0].

    The ODE is integrated by the fourth-order Runge-Kutta method over increasing `levels`, for y = x / sqrt(1
    + sigma^2), which hardly changes where noise dominates. `field` must be smooth between two levels, so
    include the edges of a guidance window in `levels` (`flow_levels`).
    """
    y = x.double() / math.hypot(1.0, levels[0])
    change = y.new_zeros(len(y))
    for low, high in pairwise(levels):
        h = math.log(high / low)
        middle = math.sqrt(low * high)
        k1, c1 = _slopes(field, y, low)
        k2, c2 = _slopes(field, y + 0.5 * h * k1, middle)
        k3, c3 = _slopes(field, y + 0.5 * h * k2, middle)
        k4, c4 = _slopes(field, y + h * k3, high)
        y = y + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
        change = change + h / 6.0 * (c1 + 2.0 * c2 + 2.0 * c3 + c4)
    top, x = levels[-1], y * math.hypot(1.0, levels[-1])
    start = -x.square().sum(dim=1) / (2.0 * top**2) - x.shape[1] * math.log(top * math.sqrt(2.0 * math.pi))
    return start - change


def flow_levels(sigma_min: float, sigma_max: float, steps: int, edges: Sequence[float] = ()) -> list[float]:
    """Noise levels of about `steps` steps from sigma_min to sigma_max, evenly spaced in log sigma, with the
    `edges` in between as additional levels.
    """
    stops = [sigma_min, *sorted(edge for edge in edges if sigma_min < edge < sigma_max), sigma_max]
    total, levels = math.log(sigma_max / sigma_min), [sigma_min]
    for low, high in pairwise(stops):
        count = max(1, round(steps * math.log(high / low) / total))
        levels += [low * (high / low) ** (i / count) for i in range(1, count)] + [high]
    return levels


def log_ratio_derivatives(
    discriminator: LogRatio, x: Tensor, sigma: float, *, time: TimeMap = tau_from_sigma
) -> tuple[Tensor, Tensor, Tensor]:
    """The log-ratio [B] of points x [B, d] at a noise level, its gradient [B, d] and its Laplacian [B] with
    respect to x, float64, by automatic differentiation.

    The network is evaluated as in guidance, at y = x / sqrt(1 + sigma^2) as float32 [B, d, 1, 1]; it must be
    twice differentiable.
    """
    mean = 1.0 / math.sqrt(1.0 + sigma**2)
    sigma_B = x.new_full((len(x),), sigma, dtype=torch.float64)
    with torch.enable_grad():
        y = (mean * x).float().requires_grad_()
        value = discriminator(y[:, :, None, None], time(sigma_B).float(), None)
        (gradient,) = torch.autograd.grad(value.sum(), y, create_graph=True)
        laplacian = torch.zeros_like(gradient[:, 0])
        for axis in range(x.shape[1]):
            if gradient.requires_grad:  # otherwise the log-ratio is linear
                (second,) = torch.autograd.grad(gradient[:, axis].sum(), y, retain_graph=True)
                laplacian = laplacian + second[:, axis]
    gradient, laplacian = gradient.detach().double(), laplacian.detach().double()
    return value.detach().double(), mean * gradient, mean**2 * laplacian


def _slopes(field: Field, y: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """(dy/ds, sigma^2 div S) at y."""
    scale = math.hypot(1.0, sigma)
    score, divergence = field(y * scale, sigma)
    return -(sigma**2 / scale) * score - (sigma / scale) ** 2 * y, sigma**2 * divergence

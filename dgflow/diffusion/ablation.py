"""EDM's general sampler, guided (Karras et al. 2022, Table 1, Algorithm 1, appendix D).

Noise levels (`discretization`), the time in which the ODE is solved (`schedule`), the scale of its state
(`scaling`) and the method (`solver`, `alpha`) combine freely. The defaults are EDM's own sampler, for which
`heun` is simpler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from dgflow.diffusion.adviser import Adviser
from dgflow.diffusion.churn import Churn
from dgflow.diffusion.evaluation import OfDenoiser
from dgflow.diffusion.guidance import Bounds, Guide, LogRatios, boosts_of, guided
from dgflow.diffusion.heun import edm_sigmas
from dgflow.diffusion.paths import Path, State, walk
from dgflow.diffusion.ranges import EPSILON_S, Discretization, default_range
from dgflow.diffusion.rows import Levels, Rows
from dgflow.diffusion.samplers import Denoiser, Noise, RoundSigma, Sample, noised, rounded
from dgflow.diffusion.times import per_sample


def ablation_sigmas(
    num_steps: int,
    discretization: Discretization = "edm",
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    *,
    rho: float = 7.0,
    epsilon_s: float = EPSILON_S,
    C_1: float = 0.001,
    C_2: float = 0.008,
    M: int = 1000,
) -> tuple[float, ...]:
    """The `num_steps` decreasing noise levels of Table 1, then 0.0, not rounded to a network's levels.

    Args:
        discretization: "vp": times from 1 to epsilon_s in equal steps; "ve": sigma^2 geometric; "iddpm":
            chosen from the M levels of a cosine schedule within the range (C_1, C_2 are its bound and
            offset); "edm": equation 5, by rho.
        sigma_min, sigma_max: None takes the value of `default_range`. The "vp" schedule is adapted to pass
            through both.

    Raises ValueError for fewer than two steps, an empty range, and more steps than "iddpm" levels in the
    range.
    """
    low, high = default_range(discretization, epsilon_s)
    low, high = low if sigma_min is None else sigma_min, high if sigma_max is None else sigma_max
    if num_steps < 2 or not 0.0 < low < high < math.inf:
        raise ValueError(
            f"expected num_steps >= 2 and 0 < sigma_min < sigma_max, found {num_steps} and {low}, {high}"
        )
    if discretization == "edm":
        return edm_sigmas(num_steps, low, high, rho)
    fractions = [i / (num_steps - 1) for i in range(num_steps)]
    if discretization == "vp":
        beta_d, beta_min = vp_betas(low, high, epsilon_s)
        times = [1.0 + fraction * (epsilon_s - 1.0) for fraction in fractions]
        return *(math.sqrt(math.expm1((0.5 * beta_d * t + beta_min) * t)) for t in times), 0.0
    if discretization == "ve":
        return *(high * (low / high) ** fraction for fraction in fractions), 0.0
    levels = [u for u in _iddpm_levels(C_1, C_2, M) if low <= u <= high]
    if len(levels) < num_steps:
        raise ValueError(
            f"expected at most {len(levels)} steps, as many as there are iDDPM levels in [{low}, {high}], "
            f"found {num_steps}"
        )
    # round() rounds half to even, as in the published code.
    return *(levels[round((len(levels) - 1) / (num_steps - 1) * i)] for i in range(num_steps)), 0.0


def vp_betas(sigma_min: float, sigma_max: float, epsilon_s: float = EPSILON_S) -> tuple[float, float]:
    """(beta_d, beta_min) with which sigma(t) = sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1) is sigma_min at
    epsilon_s and sigma_max at 1.

    beta_min is negative for EDM's range, which is harmless between epsilon_s and 1.
    """
    bottom, top = math.log1p(sigma_min**2), math.log1p(sigma_max**2)
    beta_d = 2.0 * (bottom / epsilon_s - top) / (epsilon_s - 1.0)
    return beta_d, top - 0.5 * beta_d


def ablation(
    denoiser: Denoiser,
    latents: Tensor,
    sigmas: Sequence[float],
    *,
    schedule: Literal["vp", "ve", "linear"] = "linear",
    scaling: Literal["vp", "none"] = "none",
    solver: Literal["euler", "heun"] = "heun",
    alpha: float = 1.0,
    vp_range: tuple[float, float] | None = None,
    epsilon_s: float = EPSILON_S,
    round_sigma: RoundSigma | None = None,
    images: Tensor | None = None,
    class_labels: Tensor | None = None,
    guidance: Sequence[Guide] = (),
    churn_noise: Noise | None = None,
    churn_steps: int | None = None,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = math.inf,
    S_noise: float = 1.0,
) -> Sample:
    """Run Algorithm 1 with the second-order family of appendix D.2 and churn. Steps are taken in time t, on
    the scaled state s(t) x.

    Args:
        latents: unit normals [B, ...]; scaled by s * sigmas[0] here.
        sigmas: decreasing noise levels in the network's range, ending in 0, such as `ablation_sigmas`.
        schedule: "vp": sigma(t) as in `vp_betas`; "ve": sigma = sqrt(t); "linear": sigma = t.
        scaling: "vp": s = 1 / sqrt(1 + sigma^2); "none": s = 1.
        solver: "euler", or "heun" with a second slope.
        alpha: position of the second slope as a fraction of the step: 1 is Heun's method, 1/2 the midpoint
            rule.
        vp_range: (sigma_min, sigma_max) for `vp_betas` of the "vp" schedule; None for the last positive level
            and the first.
        others: as in `heun`.

    Raises ValueError for unknown choices, for levels that do not decrease to 0 after rounding, and for churn
    without `churn_noise`.
    """
    path = AblationPath.of(
        denoiser,
        sigmas,
        latents.device,
        schedule=schedule,
        scaling=scaling,
        solver=solver,
        alpha=alpha,
        vp_range=vp_range,
        epsilon_s=epsilon_s,
        round_sigma=round_sigma,
        guidance=guidance,
        churn_steps=churn_steps,
        S_churn=S_churn,
        S_min=S_min,
        S_max=S_max,
        S_noise=S_noise,
    )
    path.churn.check(churn_noise)
    return walk(path, latents, images=images, class_labels=class_labels, noise=churn_noise)


@dataclass(frozen=True)
class AblationPath(Path):
    """The path of `ablation`: one move per step, with one draw for churn.

    Args:
        levels: decreasing noise levels, rounded for the network, ending in 0.
        time: the time of the ODE.
        times: the time of every level.
        alpha: see `ablation`; None for Euler's method.
    """

    denoiser: Denoiser
    levels: Sequence[float]
    guidance: Sequence[Guide]
    churn: Churn
    time: _Time
    times: Sequence[float]
    vp_scaled: bool
    alpha: float | None

    @classmethod
    def of(
        cls,
        denoiser: Denoiser,
        sigmas: Sequence[float],
        device: torch.device,
        *,
        schedule: Literal["vp", "ve", "linear"] = "linear",
        scaling: Literal["vp", "none"] = "none",
        solver: Literal["euler", "heun"] = "heun",
        alpha: float = 1.0,
        vp_range: tuple[float, float] | None = None,
        epsilon_s: float = EPSILON_S,
        round_sigma: RoundSigma | None = None,
        guidance: Sequence[Guide] = (),
        churn_steps: int | None = None,
        S_churn: float = 0.0,
        S_min: float = 0.0,
        S_max: float = math.inf,
        S_noise: float = 1.0,
    ) -> AblationPath:
        """Build the path from the arguments of `ablation`."""
        levels = rounded([float(sigma) for sigma in sigmas], round_sigma, device)
        falling = len(levels) > 1 and all(a > b for a, b in pairwise(levels))
        if not falling or levels[-1] != 0.0 or not math.isfinite(levels[0]):
            raise ValueError(
                f"expected decreasing, finite noise levels ending in 0, found {levels} (rounded for the "
                "network)"
            )
        if not 0.0 < alpha <= 1.0:
            raise ValueError(f"expected 0 < alpha <= 1, found {alpha}")
        time = _time(schedule, *vp_betas(*(vp_range or (levels[-2], levels[0])), epsilon_s))
        inverse = (float(time.inverse(torch.tensor(level, dtype=torch.float64))) for level in levels[:-1])
        options: dict[str, Any] = {"S_churn": S_churn, "S_min": S_min, "S_max": S_max, "S_noise": S_noise}
        return cls(
            denoiser,
            levels,
            guidance,
            Churn(levels, boosts_of(guidance), round_sigma, device, steps=churn_steps, **options),
            time,
            (*inverse, 0.0),
            _known("scaling", scaling, ("vp", "none")) == "vp",
            alpha if _known("solver", solver, ("euler", "heun")) == "heun" else None,
        )

    @property
    def draws(self) -> Sequence[int]:
        return [1] * (len(self.levels) - 1)

    @property
    def evaluations(self) -> Sequence[int]:
        return [2 if level > 0.0 and self.alpha is not None else 1 for level in self.levels[1:]]

    def begin(self, latents: Tensor, images: Tensor | None = None) -> State:
        level = self.levels[0]
        scale = self.scale_at(torch.full((len(latents),), level, dtype=torch.float64, device=latents.device))
        x = noised(latents, level * scale, None if images is None else per_sample(scale, images) * images)
        return State.fresh(x, self.entries, scale)

    @torch.no_grad()
    def move(
        self,
        state: State,
        at: Sequence[int],
        class_labels: Tensor | None,
        noise: Noise | None,
        spread: Sequence[bool] | None = None,
    ) -> State:
        rows = Rows.at(at, state.scaled.device, spread)
        here, end = rows.levels(self.levels), rows.levels(self.levels, 1)
        scale, bounds = self.scale_at(here.sigma), here.groups
        x, t = state.times(scale), rows.of(self.times)
        raised = None if noise is None else self.churn(rows, state.previous)
        if raised is not None and noise is not None:
            s = self.scale_at(raised.sigma)
            x = per_sample(s / scale, x) * x + per_sample(s * raised.added, x) * noise(0).double()
            t = self.time.inverse(raised.sigma)
            bounds = [(low, high) for (low, _), high in zip(bounds, raised.highest, strict=True)]
        slope = _Slope(self, Adviser(self.guidance, class_labels, rows, self.churn.numbers, here))
        h, alpha = rows.of(self.times, 1) - t, self.alpha
        d, log_ratios = slope(x, t, bounds, 1)
        x_next = x + per_sample(h, x) * d
        taking_part = [level > 0.0 for level, _ in end.groups]
        if alpha is not None and any(taking_part):
            inner_x, inner_t = x + per_sample(alpha * h, x) * d, t + alpha * h
            on_the_way = None if all(taking_part) else rows.where(taking_part)
            if on_the_way is not None:
                # Rows that reach level 0 are evaluated again at their old point; the result is discarded.
                inner_x = torch.where(per_sample(on_the_way, x), inner_x, x)
                inner_t = torch.where(on_the_way, inner_t, t)
            inner = [
                own if low == 0.0 else (low, low if alpha == 1.0 else own[1])
                for (low, _), own in zip(end.groups, bounds, strict=True)
            ]
            d_inner, _ = slope(inner_x, inner_t, inner, 2, taking_part)
            second = x + per_sample(h, x) * ((1.0 - 0.5 / alpha) * d + 0.5 / alpha * d_inner)
            if on_the_way is not None:
                second = torch.where(per_sample(on_the_way, x), second, x_next)
            x_next = second
        return state.moved(x_next, log_ratios, slope.adviser.evaluations, self.scale_at(end.sigma))

    def scale_at(self, sigma: Tensor) -> Tensor:
        """The scale s of the state at noise levels [B]."""
        return (1.0 + sigma.square()).rsqrt() if self.vp_scaled else torch.ones_like(sigma)


class _Slope:
    """The slope dx/dt of the guided ODE in one step."""

    def __init__(self, path: AblationPath, adviser: Adviser) -> None:
        self.path, self.adviser = path, adviser

    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        bounds: Sequence[Bounds],
        order: int,
        taking_part: Sequence[bool] | None = None,
    ) -> tuple[Tensor, LogRatios]:
        """(slope, log-ratios) of the scaled state at times [B]: (sigma'/sigma + s'/s) x - sigma' s / sigma *
        denoised (Algorithm 1, line 4); the noise levels of each group lie within its `bounds`."""
        time, scale = self.path.time, self.path.scale_at
        # Converting sigma to t and back rounds, so sigma is clamped.
        low, high = (self.adviser.rows.each(ends) for ends in zip(*bounds, strict=True))
        sigma = time.sigma(t).clamp(low, high)
        s, rate = scale(sigma), time.slope(t, sigma) / sigma
        # s'/s = -sigma sigma' s^2 for "vp", which leaves sigma'/sigma * (1 - sigma^2 s^2) = sigma'/sigma *
        # s^2; 1 likewise for "none".
        x_0 = x / per_sample(s, x)
        network = OfDenoiser(self.path.denoiser)
        advice, _ = self.adviser(network, (x_0,), Levels(sigma, bounds), order, taking_part)
        d = per_sample(rate * s.square(), x) * x - per_sample(rate * s, x) * guided(advice, sigma)
        return d, advice.log_ratios


@dataclass(frozen=True)
class _Time:
    """sigma(t), its slope as a function of (t, sigma), and its inverse."""

    sigma: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]


def _time(schedule: str, beta_d: float, beta_min: float) -> _Time:
    _known("schedule", schedule, ("vp", "ve", "linear"))
    if schedule == "linear":
        return _Time(lambda t: t, lambda t, sigma: torch.ones_like(t), lambda sigma: sigma)
    if schedule == "ve":
        return _Time(torch.sqrt, lambda t, sigma: 0.5 / sigma, torch.square)
    return _Time(
        lambda t: torch.expm1((0.5 * beta_d * t + beta_min) * t).sqrt(),
        lambda t, sigma: 0.5 * (beta_d * t + beta_min) * (sigma + 1.0 / sigma),
        lambda sigma: ((beta_min**2 + 2.0 * beta_d * torch.log1p(sigma.square())).sqrt() - beta_min) / beta_d,
    )


def _iddpm_levels(C_1: float, C_2: float, M: int) -> list[float]:
    """The M + 1 levels of a cosine schedule, decreasing to 0 (Nichol and Dhariwal 2021, as in Table 1)."""
    alpha_bar = [math.sin(0.5 * math.pi * j / M / (C_2 + 1.0)) ** 2 for j in range(M + 1)]
    u = [0.0]
    for j in range(M, 0, -1):
        u.append(math.sqrt((u[-1] ** 2 + 1.0) / max(alpha_bar[j - 1] / alpha_bar[j], C_1) - 1.0))
    return u[::-1]


def _known(name: str, value: str, choices: Sequence[str] | dict[str, tuple[float, float]]) -> str:
    if value not in choices:
        raise ValueError(f"expected {name} to be one of {', '.join(choices)}, found {value!r}")
    return value

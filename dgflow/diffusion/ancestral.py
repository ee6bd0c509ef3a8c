"""Ancestral sampling (DDPM) and DDIM as moves along a path. `ddpm` documents the computation.

All coefficients are on the host, by position; position 0 is the noisiest index of the schedule.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dgflow.diffusion.adviser import Adviser
from dgflow.diffusion.corrections import scaled_again
from dgflow.diffusion.discrete import DiscreteSchedule
from dgflow.diffusion.evaluation import OfPredictor
from dgflow.diffusion.guidance import Advice, Guide, guided
from dgflow.diffusion.paths import Path, State
from dgflow.diffusion.rows import Rows
from dgflow.diffusion.samplers import Noise, Predictor, noised
from dgflow.diffusion.times import per_sample


class Evaluation(NamedTuple):
    """The evaluation of one step.

    Args:
        rows: the rows and their positions.
        y: the state.
        denoised: the denoised image after corrections and clipping.
        v: the predictor's v.
        sigma: noise levels [B].
        advice: the result of guidance.
        is_guided: True for each group of rows on which a gradient acts.
    """

    rows: Rows
    y: Tensor
    denoised: Tensor
    v: Tensor | None
    sigma: Tensor
    advice: Advice
    is_guided: Sequence[bool]

    def of(self, values: Sequence[float]) -> Tensor:
        """The value at each row's position, [B, 1, ...]."""
        return per_sample(self.rows.of(values), self.y)

    def each(self, values: Sequence[float]) -> Tensor:
        """One value per group of rows, expanded to [B, 1, ...]."""
        return per_sample(self.rows.each(values), self.y)


class AncestralPath(Path):
    """The path of a discrete diffusion: one move per step, with one draw per move except in the last.

    Args:
        schedule: the schedule, walked from the noisiest index to index 0.
        clip_denoised: clip the denoised image to [-1, 1].
    """

    def __init__(
        self,
        predictor: Predictor,
        schedule: DiscreteSchedule,
        guidance: Sequence[Guide] = (),
        clip_denoised: bool = True,
    ) -> None:
        self.predictor, self.guidance, self.clip_denoised = predictor, guidance, clip_denoised
        self.timesteps = [float(timestep) for timestep in reversed(schedule.timestep_map)]
        self.levels = [*reversed(schedule.sigmas), 0.0]
        self.means = [*(math.sqrt(abar) for abar in reversed(schedule.alphas_cumprod)), 1.0]
        self.stds = [*(math.sqrt(1 - abar) for abar in reversed(schedule.alphas_cumprod)), 0.0]
        self.evaluations = [1] * len(self.timesteps)
        self.draws = [*self.evaluations[:-1], 0]

    def begin(self, latents: Tensor, images: Tensor | None = None) -> State:
        mean = self.means[0]
        y = latents.double() if images is None else noised(latents, self.stds[0], mean * images)
        return State.fresh(y, self.entries, y.new_full((len(y),), mean))

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
        levels, mean = rows.levels(self.levels), rows.of(self.means)
        y = state.times(mean)
        state_of_network = y / per_sample(mean, y), y, rows.of(self.timesteps)
        adviser = Adviser(self.guidance, class_labels, rows, range(len(self.levels)), levels)
        advice, v = adviser(OfPredictor(self.predictor), state_of_network, levels, 1)
        denoised = advice.denoised.clamp(-1.0, 1.0) if self.clip_denoised else advice.denoised
        evaluation = Evaluation(rows, y, denoised, v, levels.sigma, advice, adviser.is_guided)
        y = self.after(evaluation, noise)
        return state.moved(y, advice.log_ratios, adviser.evaluations, rows.of(self.means, 1))

    @abstractmethod
    def after(self, evaluation: Evaluation, noise: Noise | None) -> Tensor:
        """Return y at the next cleaner index."""


class DDPMPath(AncestralPath):
    """The path of `ddpm.ddpm`. Copies of a sample diverge by the sampler's own noise."""

    def __init__(
        self,
        predictor: Predictor,
        schedule: DiscreteSchedule,
        guidance: Sequence[Guide] = (),
        clip_denoised: bool = True,
        *,
        fixed_variance: Literal["small", "large"] = "small",
    ) -> None:
        if fixed_variance not in ("small", "large"):
            raise ValueError(f'expected fixed_variance "small" or "large", found {fixed_variance!r}')
        super().__init__(predictor, schedule, guidance, clip_denoised)
        small = schedule.posterior_log_variance_clipped
        betas = [math.log(beta) for beta in schedule.betas]
        # Index 0 has the posterior variance: no noise is added there, but guidance shifts the mean by the
        # variance.
        fixed = small if fixed_variance == "small" else [small[0], *betas[1:]]
        self.fixed, self.small = fixed[::-1], small[::-1]
        self.widths = [beta - low for beta, low in zip(betas[::-1], self.small, strict=True)]
        self.of_image = schedule.posterior_mean_coef1[::-1]
        self.of_state = schedule.posterior_mean_coef2[::-1]

    def after(self, evaluation: Evaluation, noise: Noise | None) -> Tensor:
        y, v, of = evaluation.y, evaluation.v, evaluation.of
        if v is None:
            log_variance = of(self.fixed).expand_as(y)
        else:
            log_variance = of(self.small) + 0.5 * (v.double() + 1.0) * of(self.widths)
        mean = of(self.of_image) * evaluation.denoised + of(self.of_state) * y
        if evaluation.advice.gradient is not None:
            mean = mean + log_variance.exp() * evaluation.advice.gradient / of(self.means)
        on_the_way = [self.draws[position] > 0 for position in evaluation.rows.positions]
        if not any(on_the_way):
            return mean
        if noise is None:
            raise ValueError("expected noise, since DDPM adds noise, found None: pass a function of the draw")
        noisy = mean + (0.5 * log_variance).exp() * noise(0).double()
        if all(on_the_way):
            return noisy
        return torch.where(per_sample(evaluation.rows.where(on_the_way), y), noisy, mean)


class DDIMPath(AncestralPath):
    """The path of `ddpm.ddim`. Copies of a sample that must diverge take a step with eta 1."""

    def __init__(
        self,
        predictor: Predictor,
        schedule: DiscreteSchedule,
        guidance: Sequence[Guide] = (),
        clip_denoised: bool = True,
        *,
        eta: float = 0.0,
    ) -> None:
        if not 0.0 <= eta <= 1.0:
            raise ValueError(f"expected 0 <= eta <= 1, found {eta}")
        super().__init__(predictor, schedule, guidance, clip_denoised)
        self.eta = eta
        self.befores = schedule.alphas_cumprod_prev[::-1]
        pairs = zip(reversed(schedule.alphas_cumprod), self.befores, strict=True)
        self.noisy = [math.sqrt((1 - before) / (1 - abar) * (1 - abar / before)) for abar, before in pairs]

    def after(self, evaluation: Evaluation, noise: Noise | None) -> Tensor:
        y, of, rows, sigma = evaluation.y, evaluation.of, evaluation.rows, evaluation.sigma
        at = rows.positions
        denoised = guided(evaluation.advice, sigma, evaluation.denoised)
        if any(evaluation.is_guided):
            again = scaled_again(self.guidance, y / of(self.means), sigma, denoised)
            denoised = torch.where(per_sample(rows.where(evaluation.is_guided), y), again, denoised)
        epsilon = (y - of(self.means) * denoised) / of(self.stds)
        etas = [1.0 if spread else self.eta for spread in rows.spread]
        stds = [eta * self.noisy[position] for eta, position in zip(etas, at, strict=True)]
        kept = [
            math.sqrt(1 - self.befores[position] - std**2) for position, std in zip(at, stds, strict=True)
        ]
        y = of(self.means[1:]) * denoised + evaluation.each(kept) * epsilon
        if not any(stds):
            return y
        if noise is None:
            raise ValueError("expected noise, since DDIM adds noise, found None: pass a function of the draw")
        return y + evaluation.each(stds) * noise(0).double()

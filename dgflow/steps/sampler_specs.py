"""What recipes say about samplers: plain frozen values with a `sample` that runs where torch is.

Every sampler takes every score network and every guidance term. `nfe` is the number of evaluations of the score network a sample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from dgflow.steps.step import Spec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from dgflow.diffusion.guidance import GuidanceTerm
    from dgflow.diffusion.samplers import Noise, Sample
    from dgflow.diffusion.score_model import ScoreModel

    Terms = Sequence[GuidanceTerm]


class _Churn(Spec):
    """EDM's stochasticity: noise of `S_churn` / steps of the level is added and removed again, between `S_min` and `S_max`."""

    S_churn: float = 0.0
    S_min: float = 0.0
    S_max: float | None = None  # None: no upper end
    S_noise: float = 1.0

    def churn(self) -> dict[str, float]:
        """Keyword arguments of the sampler functions."""
        top = float("inf") if self.S_max is None else self.S_max
        return {"S_churn": self.S_churn, "S_min": self.S_min, "S_max": top, "S_noise": self.S_noise}


class Heun(_Churn):
    """EDM's second-order sampler (Karras et al. 2022, Algorithm 2); 2 * steps - 1 evaluations of the denoiser."""

    steps: int = Field(default=18, gt=1)
    sigma_min: float = Field(default=0.002, gt=0)
    sigma_max: float = Field(default=80.0, gt=0)
    rho: float = 7.0

    @property
    def nfe(self) -> int:
        return 2 * self.steps - 1

    def sample(self, model: ScoreModel, latents: Tensor, class_labels: Tensor | None, terms: Terms, noise: Noise) -> Sample:
        """One batch."""
        import torch

        from dgflow.diffusion.heun import edm_sigmas, heun

        sigmas = edm_sigmas(self.steps, self.sigma_min, self.sigma_max, self.rho)
        model.check_sigmas(sigmas[:-1])
        if model.round_sigma is not None:
            sigmas = *model.round_sigma(torch.tensor(sigmas[:-1], dtype=torch.float64, device=latents.device)).tolist(), 0.0
        options: dict[str, Any] = self.churn()
        return heun(model.denoiser, latents, sigmas, class_labels=class_labels, guidance=terms, churn_noise=noise, **options)


class EDMAblation(_Churn):
    """EDM's general sampler (Karras et al. 2022, Table 1): its discretisations, schedules, scalings and solvers in any combination.

    None for `sigma_min`, `sigma_max` is the discretisation's own range.
    """

    steps: int = Field(default=18, gt=1)
    solver: Literal["euler", "heun"] = "heun"
    discretization: Literal["vp", "ve", "iddpm", "edm"] = "edm"
    schedule: Literal["vp", "ve", "linear"] = "linear"
    scaling: Literal["vp", "none"] = "none"
    sigma_min: float | None = None
    sigma_max: float | None = None
    rho: float = 7.0
    alpha: float = Field(default=1.0, gt=0, le=1)

    @property
    def nfe(self) -> int:
        return self.steps if self.solver == "euler" else 2 * self.steps - 1

    def sample(self, model: ScoreModel, latents: Tensor, class_labels: Tensor | None, terms: Terms, noise: Noise) -> Sample:
        """One batch."""

        from dgflow.diffusion.ablation import ablation, ablation_sigmas, default_range

        low, high = model.narrowed(*default_range(self.discretization))
        span = (low if self.sigma_min is None else self.sigma_min, high if self.sigma_max is None else self.sigma_max)
        sigmas = ablation_sigmas(self.steps, self.discretization, *span, rho=self.rho)
        model.check_sigmas(sigmas[:-1])
        options: dict[str, Any] = self.churn() | {"solver": self.solver, "alpha": self.alpha, "round_sigma": model.round_sigma}
        options |= {"schedule": self.schedule, "scaling": self.scaling, "vp_range": span}
        return ablation(model.denoiser, latents, sigmas, class_labels=class_labels, guidance=terms, churn_noise=noise, **options)


class DDPM(Spec):
    """Ancestral sampling (Ho et al. 2020) on a network's discrete schedule, with the variance that it learned if it learned one.

    Networks without a schedule are sampled on linear VP at 1,000 steps.

    `respacing`: how many of the steps, "250", or how many of each of several equal sections, "10,20,30".
    """

    respacing: str = "250"
    clip_denoised: bool = True
    variance: Literal["small", "large"] = "small"  # for networks that learn none

    @property
    def nfe(self) -> int:
        return _steps(self.respacing)

    def sample(self, model: ScoreModel, latents: Tensor, class_labels: Tensor | None, terms: Terms, noise: Noise) -> Sample:
        """One batch."""
        from dgflow.diffusion.ddpm import ddpm

        predictor, schedule = model.discrete(self.respacing)
        options: dict[str, Any] = {"clip_denoised": self.clip_denoised, "fixed_variance": self.variance}
        return ddpm(predictor, latents, schedule, noise=noise, class_labels=class_labels, guidance=terms, **options)


class DDIM(Spec):
    """Song et al. 2021 on a network's discrete schedule; `eta` 0 is deterministic, 1 as noisy as DDPM. `respacing` "ddim25": 25 steps."""

    respacing: str = "ddim50"
    eta: float = Field(default=0.0, ge=0, le=1)
    clip_denoised: bool = True

    @property
    def nfe(self) -> int:
        return _steps(self.respacing)

    def sample(self, model: ScoreModel, latents: Tensor, class_labels: Tensor | None, terms: Terms, noise: Noise) -> Sample:
        """One batch."""
        from dgflow.diffusion.ddpm import ddim

        predictor, schedule = model.discrete(self.respacing)
        options: dict[str, Any] = {"eta": self.eta, "clip_denoised": self.clip_denoised}
        return ddim(predictor, latents, schedule, noise=noise, class_labels=class_labels, guidance=terms, **options)


class RK45(Spec):
    """The probability-flow ODE solved by Dormand and Prince's 5(4) in linear-VP time, from `tau_max` down to `tau_min`.

    Every sample has its own step size, so that batch mates do not matter. `shared_block`: compatibility with the originals, in which a
    block of so many samples shares one step size; the block's samples then depend on each other. `denoise` ends with a denoising step.
    """

    tolerance: float = Field(default=1e-5, gt=0)
    tau_max: float = Field(default=1.0, gt=0, le=1)
    tau_min: float = Field(default=1e-5, gt=0, lt=1)
    denoise: bool = False
    shared_block: int | None = Field(default=None, gt=0)

    @property
    def nfe(self) -> int:
        return 140  # typical: the published runs took 131 (Soft Truncation) and 138 (LSGM)

    def sample(self, model: ScoreModel, latents: Tensor, class_labels: Tensor | None, terms: Terms, noise: Noise) -> Sample:
        """One batch."""

        from dgflow.diffusion.rk45 import rk45
        from dgflow.diffusion.times import sigma_from_tau

        model.check_sigmas((sigma_from_tau(self.tau_max), sigma_from_tau(self.tau_min)))
        options: dict[str, Any] = {"tau_max": self.tau_max, "tau_min": self.tau_min, "rtol": self.tolerance, "atol": self.tolerance}
        options |= {"shared_step": self.shared_block is not None, "denoise_last": self.denoise}
        return rk45(model.denoiser, latents, class_labels=class_labels, guidance=terms, **options)


Sampler = Heun | EDMAblation | DDPM | DDIM | RK45


def _steps(respacing: str) -> int:
    """Number of steps of a respacing."""
    return sum(int(part) for part in respacing.removeprefix("ddim").split(","))

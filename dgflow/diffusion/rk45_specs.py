"""Spec of the adaptive sampler of the probability-flow ODE, for recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from dgflow.diffusion.ranges import ROUNDING, check_range
from dgflow.diffusion.sampler_specs import SamplerSpec
from dgflow.specs.spec import LATER

if TYPE_CHECKING:
    from torch import Tensor

    from dgflow.diffusion.sampler_specs import Terms
    from dgflow.diffusion.samplers import Noise, Sample, Start
    from dgflow.diffusion.score_model import ScoreModel


class RK45(SamplerSpec):
    """The probability-flow ODE in linear-VP time from `tau_max` down to `tau_min`, solved by Dormand and
    Prince's 5(4) method.

    Every sample has its own step size and does not depend on the rest of its batch. `shared_block` is a
    compatibility mode in which a block of that many samples shares one step size, as in the original code.
    The samples of a block then depend on each other. `denoise_last` ends with a denoising step, at
    `denoise_tau` (None: at `tau_min`).
    """

    tolerance: float = Field(default=1e-5, gt=0)
    tau_max: float = Field(default=1.0, gt=0, le=1)
    tau_min: float = Field(default=1e-5, gt=0, lt=1)
    denoise_last: bool = False
    denoise_tau: Annotated[float | None, Field(gt=0, le=1), LATER] = None
    shared_block: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _falls(self) -> Self:
        check_range("tau_min", self.tau_min, "tau_max", self.tau_max)
        return self

    @property
    def nfe(self) -> int:
        return 140  # typical: the published runs took 131 (Soft Truncation) and 138 (LSGM)

    @property
    def block(self) -> int | None:
        return self.shared_block

    def evaluations_within(self, low: float, high: float) -> float:
        inside = min(high, self.tau_max) - max(low, self.tau_min)
        return self.nfe * max(0.0, inside) / (self.tau_max - self.tau_min)

    def check_start(self, tau: float) -> None:
        super().check_start(tau)
        if not self.tau_min < tau <= self.tau_max * (1 + ROUNDING):
            raise ValueError(
                f"expected a start after tau_min {self.tau_min:g} and up to tau_max {self.tau_max:g}, found "
                f"{tau:.6g}: start at another time, or set RK45's tau_min and tau_max"
            )

    def toy(self) -> Self:
        block = None if self.shared_block is None else 4  # a divisor of the shards of smoke runs
        return self.model_copy(update={"tolerance": max(0.1, self.tolerance), "shared_block": block})

    def sample(
        self,
        model: ScoreModel,
        latents: Tensor,
        class_labels: Tensor | None,
        terms: Terms,
        noise: Noise,
        start: Start | None = None,
    ) -> Sample:
        from dgflow.diffusion.rk45 import rk45
        from dgflow.diffusion.times import sigma_from_tau, tau_from_sigma

        tau_max = self.tau_max
        if start is not None:
            self.check_start(tau := tau_from_sigma(start.sigma))
            tau_max = min(tau, tau_max)
        ends = (tau_max, self.tau_min if self.denoise_tau is None else self.denoise_tau, self.tau_min)
        model.check_sigmas(tuple(map(sigma_from_tau, ends)))
        options: dict[str, Any] = {"class_labels": class_labels, "guidance": terms}
        options |= {"images": None if start is None else start.images}
        options |= {"tau_max": tau_max, "tau_min": self.tau_min, "tau_edges": model.tau_edges}
        options |= {"shared_step": self.shared_block is not None, "denoise_last": self.denoise_last}
        options |= {"denoise_tau": self.denoise_tau}
        return rk45(model.denoiser, latents, rtol=self.tolerance, atol=self.tolerance, **options)

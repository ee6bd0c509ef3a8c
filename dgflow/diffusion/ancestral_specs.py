"""Specs of the samplers of discrete diffusions, for recipes: `DDPM` and `DDIM`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field

from dgflow.diffusion.sampler_specs import PathSampler
from dgflow.specs.spec import Grid

if TYPE_CHECKING:
    import torch

    from dgflow.diffusion.paths import Path
    from dgflow.diffusion.sampler_specs import Terms
    from dgflow.diffusion.samplers import Start
    from dgflow.diffusion.score_model import ScoreModel


Respacing = Annotated[str, Field(pattern=r"^(ddim[1-9]\d*|(0,)*[1-9]\d*(,(0|[1-9]\d*))*)?$")]
"""The steps of a schedule to use: "250" are evenly spaced; "10,20,30" are the numbers in equal sections (0
for none); "ddim25" are at a fixed stride; "" is all.
"""


class AncestralSampler(PathSampler):
    """A sampler on a network's discrete schedule, or on linear VP at 1,000 steps for networks without one."""

    respacing: Respacing
    clip_denoised: bool | None = None  # None: clip images to [-1, 1] in every step, but not latents

    @property
    def nfe(self) -> int:
        counts = self.respacing.removeprefix("ddim").split(",")
        return sum(map(int, counts)) if self.respacing else 1000

    def nfe_from(self, tau: float, grid: Grid) -> int:
        # If the schedule keeps every step, there are no further steps to add below a start.
        return super().nfe_from(tau, grid if self.respacing else "tail")

    def toy(self) -> Self:
        """The sampler in smoke runs: ten steps, with the same number of sections or a fixed stride."""
        sections = self.respacing.split(",")
        sectioned = ",".join([str(max(2, 10 // len(sections)))] * len(sections))
        return self.model_copy(
            update={"respacing": "ddim10" if self.respacing.startswith("ddim") else sectioned}
        )

    def clips(self, model: ScoreModel) -> bool:
        """True if the denoised images of `model` are clipped."""
        return not model.latent if self.clip_denoised is None else self.clip_denoised


class DDPM(AncestralSampler):
    """Ancestral sampling (Ho et al. 2020) on a network's discrete schedule, with the learned variance, if
    any.

    Networks without a schedule are sampled on linear VP at 1,000 steps. With `clip_denoised` None, images are
    clipped to [-1, 1] in every step, and latents are not clipped.

    `respacing`: the number of steps, "250", or the numbers of steps in equal sections, "10,20,30".
    """

    respacing: Respacing = "250"
    fixed_variance: Literal["small", "large"] = "small"  # for networks without learned variance

    def path(self, model: ScoreModel, terms: Terms, device: torch.device, start: Start | None = None) -> Path:
        from dgflow.diffusion.ancestral import DDPMPath

        predictor, schedule = model.discrete(self.respacing, start)
        return DDPMPath(predictor, schedule, terms, self.clips(model), fixed_variance=self.fixed_variance)


class DDIM(AncestralSampler):
    """DDIM (Song et al. 2021) on a network's discrete schedule; `eta` 0 is deterministic, 1 as noisy as DDPM.

    `respacing` "ddim25": 25 steps.
    """

    respacing: Respacing = "ddim50"
    eta: float = Field(default=0.0, ge=0, le=1)

    def path(self, model: ScoreModel, terms: Terms, device: torch.device, start: Start | None = None) -> Path:
        from dgflow.diffusion.ancestral import DDIMPath

        predictor, schedule = model.discrete(self.respacing, start)
        return DDIMPath(predictor, schedule, terms, self.clips(model), eta=self.eta)

"""Score models of networks on a discrete schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import nn

    from dgflow.diffusion.score_model import ScoreModel


def discrete_score_model(
    network: nn.Module,
    betas: Literal["linear", "cosine"],
    *,
    learn_sigma: bool,
    null_label: int | None = None,
) -> ScoreModel:
    from dgflow.diffusion.denoisers import VPDenoiser, epsilon_only, learned_range
    from dgflow.diffusion.discrete import DiscreteSchedule
    from dgflow.diffusion.score_model import ScoreModel

    predictor, schedule = (
        (learned_range if learn_sigma else epsilon_only)(network),
        DiscreteSchedule.of(betas),
    )
    return ScoreModel(
        VPDenoiser(predictor, schedule.timesteps_from_sigma()),
        predictor,
        schedule,
        null_label,
        sigma_range=(schedule.sigmas[0], schedule.sigmas[-1]),
    )

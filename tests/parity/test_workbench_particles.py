"""Resampling of particles against Liu et al. 2023, with closed forms in the place of networks and the normals
and uniforms of each case."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from parity.goldens import Case, cases, close, load
from parity.toys import ToyLogit, ToyMixture
from torch import Tensor

import dgflow as dg
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm, log_ratio_at
from dgflow.diffusion.guidance_settings import DiscriminatorSettings
from dgflow.diffusion.heun import edm_sigmas
from dgflow.diffusion.paths import State
from dgflow.diffusion.restart import RestartPath
from dgflow.diffusion.selection.particles import Rule, filtered
from dgflow.diffusion.selection.resampling import CLIP
from dgflow.diffusion.times import TimeMap, cosine_from_sigma, tau_from_sigma

LAST = 1e-4
"""The noise level at which the original asks about finished samples; dgflow asks at 0."""

GUIDED = DiscriminatorSettings(weight=1.0, tau_min=0.01, boost=dg.Boost(S_churn=0.0))
EPS = torch.finfo(torch.float32).eps


def is_particles(case: Case) -> bool:
    return "diffusion_resampling" in case.reference and "num_particles" in case.config.get("sampler", {})


CLAIMS = [is_particles]


def path_of(config: dict[str, Any], denoiser: Any, logit: ToyLogit, time: TimeMap) -> RestartPath:
    """The case's sampler; without restarts it is Heun's."""
    settings = dict(config)
    count, rows = settings.pop("num_steps", None), {}
    if settings["sampler"] == "restart":
        steps, _, asked = settings.pop("restart_info").partition(";")
        count, rows = int(steps), json.loads(asked)
    restarts = [
        dg.RestartInterval(points=points, repeats=repeats, sigma_min=low, sigma_max=high)
        for points, repeats, low, high in rows.values()
    ]
    names = ("S_churn", "S_min", "S_max", "S_noise", "restart_gamma")
    options = {name: settings[name] for name in names if name in settings}
    guidance = []
    if settings["method"] == "dg":
        assert settings["dg_weight_1st_order"] == GUIDED.weight
        # The original's ratio is clipped, also where its gradient guides: beyond, there is none.
        guidance = [DiscriminatorTerm(lambda *asked: logit(*asked).clamp(-CLIP, CLIP), GUIDED, time)]
    return RestartPath.of(
        denoiser, edm_sigmas(count), torch.device("cpu"), restarts, guidance=guidance, **options
    )


def rule_of(config: dict[str, Any], path: RestartPath) -> Rule:
    """Resampled before the given steps, or before every restart; a single particle never is."""
    if config["num_particles"] == 1:
        return Rule(frozenset())
    if config["sampler"] == "edm":
        return Rule(frozenset(config["resample_inds"]), scheme="multinomial")
    again = [move.added is not None for move in path.moves]
    return Rule(frozenset(place for place, noisy in enumerate(again) if noisy), scheme="multinomial")


@pytest.mark.parametrize("case", cases(is_particles, "workbench"))
def test_particles_are_weighted_and_resampled_as_the_original_s(case: Case) -> None:
    settings, arrays, _ = load(case)
    config = settings["sampler"]
    count, labels = config["num_particles"], arrays.get("in_labels")
    time = cosine_from_sigma if settings["net.img_resolution"] == 64 else tau_from_sigma
    network, logit = ToyMixture.of(arrays), ToyLogit.of(arrays)
    asked: list[tuple[Tensor, Tensor]] = []

    def denoiser(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        asked.append((x[0].clone(), sigma[0]))
        return network(x, sigma, class_labels)

    path = path_of(config, denoiser, logit, time)
    rule, latents = rule_of(config, path), arrays["in_latents"].double()
    numbers, turns = [sum(path.draws[:place]) for place in range(len(path.draws))], sorted(rule.positions)

    def move(state: State, position: int, spread: Sequence[bool] | None) -> State:
        return path.move(
            state,
            [position] * len(latents),
            labels,
            lambda number: arrays["in_noise"][numbers[position] + number].double(),
            spread,
        )

    def log_ratio(state: State, level: float) -> np.ndarray:
        sigma = torch.full((len(latents),), level or LAST, dtype=torch.float64)
        return log_ratio_at(logit, state.x, sigma, labels, time=time).double().reshape(-1, count).numpy()

    def uniforms(position: int) -> np.ndarray:
        return arrays["in_u"][turns.index(position)].numpy()

    end = filtered(path, path.begin(latents), rule, move=move, log_ratio=log_ratio, uniforms=uniforms)
    close(case, "x", end.state.x, arrays["out_x"], of_max=1e-5)
    close(case, "eval_x0", torch.stack([x for x, _ in asked]), arrays["out_eval_x0"], of_max=1e-5)
    close(case, "eval_t", torch.stack([sigma for _, sigma in asked]), arrays["out_eval_t"], rtol=1e-6)
    # The original's ratio is p / (1 - p) of a float32 probability.
    ratio = arrays["out_ll_ratio"].double()
    found = torch.from_numpy(end.log_ratio).clamp(-CLIP, CLIP).exp().flatten()
    close(case, "ll_ratio", found, ratio, rtol=1e-4, atol=2 * EPS * (1 + ratio).square())
    assert sum(path.draws) == int(arrays["out_n_draws"])
    assert len(end.looks) == len(arrays["in_u"])
    for turn, look in enumerate(end.looks):
        close(case, "weights", torch.from_numpy(look.weights), arrays["out_weights"][turn], rtol=1e-4)
        np.testing.assert_array_equal(look.chosen, arrays["out_indices"][turn])

"""Restart sampling follows the published implementation's path."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from parity import goldens
from parity.goldens import Case
from parity.toys import ToyMixture
from torch import Tensor

import dgflow as dg
from dgflow.diffusion.heun import edm_sigmas
from dgflow.diffusion.paths import walk
from dgflow.diffusion.restart import RestartPath
from dgflow.diffusion.restart_settings import placed


def is_restart(case: Case) -> bool:
    return "restart_sampler" in case.reference and "restart_index_map" in case.config


CLAIMS = [is_restart]


def interval(points: int, repeats: int, sigma_min: float, sigma_max: float) -> dg.RestartInterval:
    """Build an interval from arguments in the published order."""
    return dg.RestartInterval(points=points, repeats=repeats, sigma_min=sigma_min, sigma_max=sigma_max)


@pytest.mark.parametrize("case", goldens.cases(is_restart, "workbench"))
def test_restarts_follow_the_reference_s_path(case: Case) -> None:
    config, arrays, _ = goldens.load(case)
    settings = dict(config["sampler"])
    asked = settings.pop("restart_info")
    restarts = [interval(*row) for row in json.loads(asked).values()] if asked else []
    ends = {name: settings.pop(name) for name in ("sigma_min", "sigma_max", "rho") if name in settings}
    levels = edm_sigmas(settings.pop("num_steps"), **ends)
    options: dict[str, Any] = {"S_noise": 0.0, "rho": ends.get("rho", 7.0)} | settings
    assert placed(levels, restarts) == {
        int(place): interval(*row) for place, row in config["restart_index_map"].items() if int(place) > 0
    }
    states, times = [], []
    network = ToyMixture.of(arrays)

    def denoiser(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        states.append(x[0].clone())
        times.append(sigma[0])
        return network(x, sigma, labels)

    latents = arrays["in_latents"].double()
    path = RestartPath.of(denoiser, levels, latents.device, restarts, **options)
    sample = walk(path, latents, class_labels=arrays.get("in_labels"), noise=arrays["in_noise"].__getitem__)
    goldens.close(case, "x", sample.x, arrays["out_x"], of_max=1e-5)
    goldens.close(case, "eval_x0", torch.stack(states), arrays["out_eval_x0"], of_max=1e-5)
    goldens.close(case, "eval_t", torch.stack(times), arrays["out_eval_t"], rtol=1e-6)
    assert sample.nfe == sum(path.evaluations) == int(arrays["out_nfe"])
    assert sum(path.draws) == int(arrays["out_n_draws"])

"""Restart sampling: closed forms of Gaussian data, its relation to Heun's method, its evaluation count, and
refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import dgflow as dg
from dgflow.diffusion import noise
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
from dgflow.diffusion.guidance_settings import Boost, DiscriminatorSettings
from dgflow.diffusion.heun import edm_sigmas
from dgflow.diffusion.linear_vp import LINEAR_VP
from dgflow.diffusion.paths import walk
from dgflow.diffusion.restart import RestartPath
from dgflow.diffusion.sampler_presets import RESTART_ROWS, restart
from dgflow.diffusion.samplers import Start
from dgflow.diffusion.score_model import ScoreModel

MEAN, STD = 0.3, 0.7
INDEX = torch.arange(4)
LATENTS = noise.standard_normal(4, INDEX, (2, 2), step=0, draw=noise.LATENT)
INTERVAL = dg.RestartInterval(points=3, repeats=2, sigma_min=0.4, sigma_max=2.0)
CHURN: dict[str, Any] = {"S_churn": 4.0, "S_min": 0.05, "S_max": 20.0, "S_noise": 1.003}


def gaussian(x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
    """Returns the denoiser of data N(MEAN, STD^2)."""
    return MEAN + (STD**2 / (STD**2 + sigma**2))[:, None, None] * (x - MEAN)


def normals(number: int) -> Tensor:
    return noise.standard_normal(4, INDEX, (2, 2), step=number, draw=noise.CHURN)


def flow(x: Tensor, before: float, after: float) -> Tensor:
    """Returns the ODE's solution for the data of `gaussian`."""
    return MEAN + (x - MEAN) * math.sqrt((STD**2 + after**2) / (STD**2 + before**2))


def run(sampler: dg.Heun, start: Start | None = None, terms: Any = (), network: Any = gaussian) -> Any:
    return sampler.sample(ScoreModel(network), LATENTS, None, terms, normals, start)


def test_a_restart_noises_and_solves_again() -> None:
    """Draw 0 of a move is its noise; the steps of the schedule before it took one draw each."""
    sampler = dg.Restart(
        steps=120, restarts=(dg.RestartInterval(points=80, repeats=2, sigma_min=0.4, sigma_max=3.0),)
    )
    levels = edm_sigmas(120)
    place = min(range(121), key=lambda place: abs(levels[place] - 0.4))
    x = flow(levels[0] * LATENTS, levels[0], levels[place])
    for repeat in range(2):
        raised = x + math.sqrt(9.0 - levels[place] ** 2) * normals(place + 80 * repeat)
        x = flow(raised, 3.0, levels[place])
    torch.testing.assert_close(run(sampler).x, flow(x, levels[place], 0.0), rtol=0, atol=2e-3)


@pytest.mark.parametrize("churn", [{}, CHURN])
def test_without_restarts_it_is_heuns_method_bit_for_bit(churn: dict[str, Any]) -> None:
    def looks_fake(y: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
        return y.sin().flatten(1).sum(1) - time

    settings = DiscriminatorSettings(weight=2.0, boost=Boost(), tau_max=0.8)
    terms = [DiscriminatorTerm(looks_fake, settings)]
    expected = run(dg.Heun(steps=7, **churn), terms=terms)
    found = run(dg.Restart(steps=7, restart_gamma=0.05, **churn), terms=terms)
    assert torch.equal(found.x, expected.x) and torch.equal(found.log_ratio, expected.log_ratio)
    assert (found.nfe, found.guidance_nfe) == (expected.nfe, expected.guidance_nfe)


@pytest.mark.parametrize("gamma", [0.0, 0.05])
def test_only_restart_gamma_churns_the_steps_of_restarts(gamma: float) -> None:
    levels: list[float] = []

    def record(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        levels.append(float(sigma[0]))
        return gaussian(x, sigma)

    single = INTERVAL.model_copy(update={"repeats": 1})
    run(dg.Restart(steps=6, restarts=(single,), restart_gamma=gamma, **CHURN), network=record)
    raised = [level for level in levels if level == pytest.approx(2.0 * (1 + gamma), rel=1e-12)]
    assert len(raised) == 1
    assert 80.0 in levels  # above S_max
    assert any(level == pytest.approx(edm_sigmas(6)[2] * (1 + 4.0 / 6)) for level in levels) is False
    assert any(level == pytest.approx(edm_sigmas(6)[2] * 2**0.5) for level in levels)


@pytest.mark.parametrize("tau", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("grid", ["tail", "whole"])
def test_evaluations_are_counted_without_a_network(tau: float, grid: Any) -> None:
    outer = dg.RestartInterval(points=4, repeats=1, sigma_min=5.0, sigma_max=20.0)
    sampler = dg.Restart(steps=9, restarts=(outer, INTERVAL))
    assert run(sampler).nfe == sampler.nfe == 17 + 2 * 3 + 2 * 2 * 2
    start = Start(torch.zeros_like(LATENTS), LINEAR_VP.level(tau), grid)
    assert run(sampler, start).nfe == sampler.nfe_from(tau, grid)


def test_a_run_from_an_image_never_goes_above_its_start() -> None:
    highest = 0.0

    def record(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        nonlocal highest
        highest = max(highest, float(sigma.max()))
        return gaussian(x, sigma)

    run(dg.Restart(restarts=(INTERVAL,)), Start(torch.zeros_like(LATENTS), 1.0), network=record)
    assert highest == 1.0


@pytest.mark.parametrize(
    ("restarts", "says"),
    [
        ([(0.39, 2.0), (0.41, 1.0)], r"different noise levels.*sigma_min 0\.39\), shared with a later"),
        ([(79.0, 90.0)], "the first level, before any step"),
        ([(0.0001, 2.0)], r"above 0 and below their sigma_max, found 0 for sigma_min 0\.0001"),
        ([(2.0, 2.1)], r"below their sigma_max, found 2\.\d+ for sigma_min 2 and sigma_max 2\.1"),
    ],
)
def test_restarts_that_would_not_happen_are_refused(restarts: Any, says: str) -> None:
    made = [dg.RestartInterval(points=3, sigma_min=low, sigma_max=high) for low, high in restarts]
    with pytest.raises(ValueError, match=says):
        dg.Restart(steps=9, restarts=tuple(made))


def test_levels_of_a_network_and_missing_noise_are_errors() -> None:
    above = dg.RestartInterval(points=3, sigma_min=5.0, sigma_max=50.0)
    sampler = dg.Restart(steps=9, sigma_max=30.0, restarts=(above,))
    with pytest.raises(ValueError, match="between 0.002 and 40.*found 50"):
        sampler.path(ScoreModel(gaussian, sigma_range=(0.002, 40.0)), (), LATENTS.device)
    path = RestartPath.of(gaussian, edm_sigmas(9), LATENTS.device, [INTERVAL])
    with pytest.raises(ValueError, match="expected noise, since Restart adds noise"):
        walk(path, LATENTS)
    with pytest.raises(ValueError, match="expected sigma_min < sigma_max, found 2.0 and 1.0"):
        dg.RestartInterval(points=3, sigma_min=2.0, sigma_max=1.0)


@pytest.mark.parametrize("row", RESTART_ROWS)
def test_published_samplers_take_the_published_evaluations(row: str) -> None:
    """2 N - 1 + the sum of 2 K (N_r - 1)."""
    sampler = restart(row)
    assert sampler.nfe == (43 if row == "cifar10" else int(row.rsplit("-", 1)[1]))
    toy = sampler.toy()
    assert toy.nfe < 30 and all(interval.repeats == 1 for interval in toy.restarts)
    assert run(toy).nfe == toy.nfe
    with pytest.raises(ValueError, match="did you mean cifar10"):
        restart("cifar01")

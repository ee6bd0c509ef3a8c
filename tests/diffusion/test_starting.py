"""Samplers that start within their range, at images: closed forms of Gaussian data, the visited levels, and
refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dgflow.diffusion import noise
from dgflow.diffusion.ancestral_specs import DDIM, DDPM
from dgflow.diffusion.edm_sampler_specs import EDMAblation, Heun
from dgflow.diffusion.heun import edm_sigmas
from dgflow.diffusion.linear_vp import LINEAR_VP
from dgflow.diffusion.rk45_specs import RK45
from dgflow.diffusion.sampler_specs import SamplerSpec
from dgflow.diffusion.samplers import Start
from dgflow.diffusion.score_model import ScoreModel
from dgflow.diffusion.times import sigma_from_tau

MEAN, STD = 0.3, 0.7
INDEX = torch.arange(2_000)
LATENTS = noise.standard_normal(4, INDEX, (2,), step=0, draw=noise.LATENT)
IMAGES = torch.tensor([[1.0, -0.5]], dtype=torch.float64).expand(len(INDEX), -1)
TAU = 0.4
SIGMA = sigma_from_tau(TAU)


def gaussian(x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
    """Returns the denoiser of data N(MEAN, STD^2)."""
    share = (STD**2 / (STD**2 + sigma**2))[:, None]
    return MEAN + share * (x - MEAN)


def normals(step: int) -> Tensor:
    return noise.standard_normal(4, INDEX, (2,), step=step, draw=noise.CHURN)


def started(sampler: SamplerSpec, tau: float = TAU, **fields: Any) -> Tensor:
    start = Start(IMAGES, sigma_from_tau(tau), **fields)
    return sampler.sample(ScoreModel(gaussian), LATENTS, None, (), normals, start).x


FLOWS: list[SamplerSpec] = [
    Heun(steps=150),
    EDMAblation(steps=80, discretization="vp", schedule="vp", scaling="vp"),
    EDMAblation(steps=80, discretization="ve", schedule="ve", alpha=0.5),
    EDMAblation(steps=80, discretization="iddpm"),
    DDIM(respacing="", clip_denoised=False),
    RK45(tolerance=1e-4),
]


@pytest.mark.parametrize("grid", ["tail", "whole"])
@pytest.mark.parametrize("sampler", FLOWS, ids=lambda sampler: type(sampler).__name__)
def test_the_flow_from_an_image_is_its_closed_form(sampler: SamplerSpec, grid: str) -> None:
    """x(sigma) - MEAN is proportional to sqrt(STD^2 + sigma^2). DDIM takes first-order steps, and its start
    is rounded to one of its thousand levels."""
    state = IMAGES + SIGMA * LATENTS
    expected = MEAN + (state - MEAN) * STD / math.sqrt(STD**2 + SIGMA**2)
    atol = 0.01 if isinstance(sampler, DDIM) else 2e-3
    torch.testing.assert_close(started(sampler, grid=grid), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("grid", ["tail", "whole"])
@pytest.mark.parametrize(
    "sampler",
    [DDPM(respacing="100", clip_denoised=False), DDIM(respacing="100", eta=1.0, clip_denoised=False)],
    ids=["DDPM", "DDIM"],
)
def test_ancestral_samplers_draw_from_the_posterior_of_the_noised_image(
    sampler: SamplerSpec, grid: str
) -> None:
    """Over the noise of the start: mean MEAN + s (image - MEAN), s = STD^2 / (STD^2 + sigma^2), and variance
    that of the denoised images plus their posterior variance."""
    share = STD**2 / (STD**2 + SIGMA**2)
    x = started(sampler, grid=grid)
    variance = (share * SIGMA) ** 2 + share * SIGMA**2
    expected = MEAN + share * (IMAGES[0] - MEAN)
    error = 4 * math.sqrt(variance / len(INDEX))
    assert x.mean(0).tolist() == pytest.approx(expected.tolist(), abs=error + 0.01)
    # The discretisation of 100 steps, 40 of them below the start, costs a few per cent.
    assert x.var(0).tolist() == pytest.approx([variance] * 2, rel=0.12)


@pytest.mark.parametrize("grid", ["tail", "whole"])
@pytest.mark.parametrize(
    "sampler", [Heun(S_churn=10), EDMAblation(S_churn=10, solver="euler")], ids=["Heun", "EDMAblation"]
)
def test_a_start_at_the_top_is_the_whole_run(sampler: Heun | EDMAblation, grid: Any) -> None:
    model = ScoreModel(gaussian)
    whole = sampler.sample(model, LATENTS, None, (), normals).x
    start = Start(torch.zeros_like(LATENTS), 80.0, grid)
    assert torch.equal(sampler.sample(model, LATENTS, None, (), normals, start).x, whole)


def visited(sampler: SamplerSpec, start: Start | None, model: dict[str, Any] | None = None) -> list[float]:
    """Returns the noise levels at which the network is evaluated, each once."""
    levels: list[float] = []

    def record(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        levels.append(float(sigma[0]))
        return gaussian(x, sigma)

    sampler.sample(ScoreModel(record, **(model or {})), LATENTS, None, (), normals, start)
    return sorted(set(levels), reverse=True)


def test_the_tail_is_the_samplers_own_grid_below_the_start() -> None:
    whole = visited(Heun(), None)
    tail = visited(Heun(), Start(IMAGES, 2.0))
    assert tail == [2.0, *(level for level in whole if level < 2.0)]
    exactly = visited(Heun(), Start(IMAGES, whole[9]))
    assert exactly == whole[9:]
    assert visited(Heun(), Start(IMAGES, 2.0, "whole")) == pytest.approx(visited(Heun(sigma_max=2.0), None))
    steps = visited(DDIM(respacing="50"), None)
    assert visited(DDIM(respacing="50"), Start(IMAGES, steps[20] * 1.01)) == steps[20:]


@pytest.mark.parametrize(
    ("sampler", "steps"),
    [
        (DDIM(respacing="ddim50"), 50),
        (DDPM(respacing=""), 300),
        (DDPM(respacing="10,10"), 20),
        (DDPM(respacing="0,10"), 10),
    ],
)
def test_steps_that_are_respaced_below_a_start_begin_at_it(sampler: SamplerSpec, steps: int) -> None:
    """Timestep 299 of the thousand of linear VP is nearest to time 0.3."""
    start = Start(IMAGES, sigma_from_tau(0.3), "whole")
    levels = visited(sampler, start)
    assert len(levels) == steps == sampler.nfe_from(0.3, "whole")
    assert levels[0] == pytest.approx(start.sigma, rel=2e-3)


def test_churn_raises_a_level_of_the_tail_as_far_as_in_a_whole_run() -> None:
    """S_churn is divided among the steps of the whole grid."""
    churned = Heun(S_churn=3.0)
    whole, tail = visited(churned, None), visited(churned, Start(IMAGES, 2.0))
    assert tail[0] == pytest.approx(2.0 * (1 + 3.0 / 18))
    assert set(tail) - {2.0, tail[0]} <= set(whole)


def test_a_network_that_knows_some_levels_starts_at_the_nearest() -> None:
    known = torch.tensor([4.0, 3.0, 2.5, 2.0, 1.5, 1.0, 0.5, 0.1], dtype=torch.float64)

    def nearest(sigma: Tensor) -> Tensor:
        return known[(sigma[..., None] - known).abs().argmin(-1)]

    model = {"round_sigma": nearest, "sigma_range": (0.1, 4.0)}
    levels = visited(Heun(steps=4, rho=1.0), Start(IMAGES, 2.1), model)
    assert levels == [2.0, 1.5, 0.1]  # out of 4, 2.7, 1.4 and 0.1


@pytest.mark.parametrize("tau", [0.1, 0.3, 0.55, 0.9])
@pytest.mark.parametrize("steps", [7, 18])
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_the_evaluations_behind_a_start_are_counted_without_a_network(
    tau: float, steps: int, solver: Any
) -> None:
    sampler, start = EDMAblation(steps=steps, solver=solver), Start(IMAGES, sigma_from_tau(tau))
    counted = sampler.sample(ScoreModel(gaussian), LATENTS, None, (), normals, start).nfe
    assert sampler.nfe_from(tau, "tail") == counted
    assert sampler.nfe_from(tau, "whole") == sampler.nfe


def test_a_start_at_a_level_of_the_grid_is_known_in_spite_of_rounding() -> None:
    """The level is converted to linear-VP time and back."""
    for place, level in enumerate(edm_sigmas(18)[:17]):
        tau = LINEAR_VP.time(level)
        Heun().check_start(tau)
        assert Heun().nfe_from(tau, "tail") == 35 - 2 * place
        assert LINEAR_VP.level(tau) == pytest.approx(level, rel=1e-12)


@pytest.mark.parametrize(
    ("sampler", "tau", "says"),
    [
        (Heun(), 1.0, "up to 0.9335, .*noise levels 0.002 to 80.*found 1 .*152.1"),
        (Heun(sigma_min=0.5, steps=4), 0.1, r"after linear-VP time 0\.1.*found 0\.1 "),
        (EDMAblation(discretization="ve"), 0.99, "noise levels 0.02 to 100"),
        (RK45(tau_max=0.8), 0.9, "up to tau_max 0.8, found 0.9"),
        (RK45(tau_min=0.1), 0.1, "after tau_min 0.1"),
    ],
)
def test_a_start_outside_the_sampler_is_refused_before_any_network(
    sampler: SamplerSpec, tau: float, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        sampler.check_start(tau)


@pytest.mark.parametrize(
    ("sampler", "tau", "fields", "says"),
    [
        (Heun(), 0.9, {"sigma_range": (0.01, 10.0)}, r"at most 10,.*found 58\.8.*0\.9\)"),
        (Heun(), 0.001, {"sigma_range": (0.1, 10.0)}, r"above 0\.1 "),
        (DDPM(respacing="250"), 0.001, {}, "from which two or more steps remain"),
        (DDPM(respacing="10"), 0.0005, {}, r"between 0\.010\d+ and 152.*found 0\.007"),
        (DDIM(respacing="ddim10"), 0.95, {}, "respacing"),
        (
            DDPM(respacing="10,10,0"),
            0.6,
            {"grid": "whole"},
            "two or more steps in the last section.*200 timesteps below",
        ),
        (DDPM(respacing="500"), 0.3, {"grid": "whole"}, "expected at most"),
    ],
)
def test_a_start_outside_network_or_schedule_is_refused(
    sampler: SamplerSpec, tau: float, fields: dict[str, Any], says: str
) -> None:
    grid = fields.pop("grid", "tail")
    model, start = ScoreModel(gaussian, **fields), Start(IMAGES, sigma_from_tau(tau), grid)
    with pytest.raises(ValueError, match=says):
        sampler.sample(model, LATENTS, None, (), normals, start)

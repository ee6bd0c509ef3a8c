"""EDM's general sampler: equality with Heun where both agree, orders of convergence on a Gaussian in every
setting, levels, rounding, refusals."""

from __future__ import annotations

import math
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from diffusion.device_reads import ForbidReads
from diffusion.mixtures import MODEL, REAL, exact_log_ratio
from torch import Tensor

from dgflow.diffusion import noise
from dgflow.diffusion.ablation import ablation, ablation_sigmas, default_range, vp_betas
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
from dgflow.diffusion.guidance import Point
from dgflow.diffusion.guidance_settings import Boost, DiscriminatorSettings
from dgflow.diffusion.heun import edm_sigmas, heun
from dgflow.diffusion.times import sigma_from_tau

INDEX = torch.arange(8)
LATENTS = noise.standard_normal(1, INDEX, (2,), step=0, draw=noise.LATENT)
SETTINGS: list[dict[str, Any]] = [
    {"schedule": schedule, "scaling": scaling}
    for schedule, scaling in product(("vp", "ve", "linear"), ("vp", "none"))
]


def churn_noise(step: int) -> Tensor:
    return noise.standard_normal(1, INDEX, (2,), step=step, draw=noise.CHURN)


def gaussian(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
    """The denoiser of data N(0, 0.5^2): x(sigma) is proportional to sqrt(0.25 + sigma^2)."""
    return x * (0.25 / (0.25 + sigma**2))[:, None]


def error(num_steps: int, **options: Any) -> float:
    """Returns the error at sigma = 0, from 10, with levels in which every schedule is smooth."""
    sigmas = [*(10 * (1 - i / num_steps) ** 2 for i in range(num_steps)), 0.0]
    found = ablation(gaussian, LATENTS, sigmas, vp_range=(0.01, 10.0), **options).x
    return float((found - LATENTS * 10 * 0.5 / math.hypot(0.5, 10)).abs().max())


def test_its_edm_setting_is_heun_with_guidance_boost_and_churn() -> None:
    options: dict[str, Any] = {
        "churn_noise": churn_noise,
        "S_churn": 3.0,
        "S_min": 0.05,
        "S_max": 50.0,
        "S_noise": 1.01,
    }
    options["guidance"] = [
        DiscriminatorTerm(
            exact_log_ratio, DiscriminatorSettings(weight=1.5, second_order_weight=0.5, boost=Boost())
        )
    ]
    assert ablation_sigmas(18) == edm_sigmas(18)
    found, expected = (
        sampler(MODEL.denoiser, LATENTS, edm_sigmas(18), **options) for sampler in (ablation, heun)
    )
    torch.testing.assert_close(found.x, expected.x, rtol=1e-12, atol=1e-12)
    assert found.log_ratio is not None and expected.log_ratio is not None
    torch.testing.assert_close(found.log_ratio, expected.log_ratio, rtol=1e-9, atol=1e-6)
    assert (found.nfe, found.guidance_nfe) == (expected.nfe, expected.guidance_nfe)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: "-".join(setting.values()))
@pytest.mark.parametrize(
    ("method", "order"),
    [({"solver": "euler"}, 1), ({"alpha": 1.0}, 2), ({"alpha": 0.5}, 2)],
    ids=["euler", "heun", "midpoint"],
)
def test_every_setting_converges_with_the_order_of_its_solver(
    setting: dict, method: dict, order: int
) -> None:
    errors = [error(n, **setting, **method) for n in (100, 200, 400)]
    assert [math.log2(a / b) for a, b in pairwise(errors)][-1] > order - 0.35


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: "-".join(setting.values()))
def test_every_setting_turns_the_model_into_the_data_by_the_exact_ratio(setting: dict) -> None:
    """Guided samples end where the denoiser of REAL takes the same latents."""
    term = DiscriminatorTerm(
        exact_log_ratio, DiscriminatorSettings(weight=1.0, second_order_weight=1.0, tau_min=0.0)
    )
    sigmas = ablation_sigmas(48, "edm")
    right = ablation(REAL.denoiser, LATENTS, sigmas, **setting).x
    wrong = ablation(MODEL.denoiser, LATENTS, sigmas, **setting).x
    found = ablation(MODEL.denoiser, LATENTS, sigmas, guidance=[term], **setting).x
    assert float((found - right).abs().max()) < 2e-3 < 0.1 < float((wrong - right).abs().mean())


@pytest.mark.parametrize(("scaling", "sigmas"), [("none", (8.0, 4.0, 2.0, 0.0)), ("vp", (8.0, 0.0))])
def test_churn_adds_the_noise_between_the_two_levels_whatever_the_scale_of_the_state(
    scaling: Any, sigmas: tuple[float, ...]
) -> None:
    """With a zero denoiser, x / sigma is constant in between.

    (One step with "vp", whose ODE Euler's method does not solve exactly.)
    """
    seen: list[tuple[Tensor, Tensor]] = []

    def zero(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        seen.append((x, sigma))
        return torch.zeros_like(x)

    gamma, x = 0.3, LATENTS * 8
    churn: dict[str, Any] = {
        "churn_noise": churn_noise,
        "S_churn": gamma * (len(sigmas) - 1),
        "S_noise": 1.003,
    }
    ablation(zero, LATENTS, sigmas, scaling=scaling, solver="euler", **churn)
    for step, (found, sigma_hat) in enumerate(seen):
        x = x + math.sqrt(gamma * (2 + gamma)) * sigmas[step] * 1.003 * churn_noise(step)
        torch.testing.assert_close(found, x, rtol=1e-12, atol=1e-12)
        assert sigma_hat.tolist() == pytest.approx([sigmas[step] * (1 + gamma)] * 8)
        x = x * sigmas[step + 1] / (sigmas[step] * (1 + gamma))


KNOWN = torch.logspace(2.2, -3, 200, dtype=torch.float64)


def nearest(sigma: Tensor) -> Tensor:
    return KNOWN[(sigma[..., None] - KNOWN).abs().argmin(-1)]


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_network_that_knows_some_levels_sees_no_others_and_terms_get_bounds_that_hold(solver: Any) -> None:
    seen: list[Tensor] = []

    class Term:
        boost = Boost(period=1, churn_period=2)

        def __call__(self, point: Point) -> tuple[None, Tensor]:
            low, high = point.sigma_bounds
            assert bool(((low <= point.sigma) & (point.sigma <= high)).all())
            return None, torch.where(torch.arange(8) < 3, -1.0, 1.0)

    def record(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        seen.append(sigma)
        return gaussian(x, sigma, class_labels)

    churn: dict[str, Any] = {"churn_noise": churn_noise, "S_churn": 2.0}
    for schedule in ("vp", "ve", "linear"):
        ablation(
            record,
            LATENTS,
            edm_sigmas(12),
            schedule=schedule,
            round_sigma=nearest,
            solver=solver,
            guidance=[Term()],
            **churn,
        )
    levels = torch.cat(seen)
    torch.testing.assert_close(levels, nearest(levels), rtol=1e-12, atol=0)
    assert any(len(sigma.unique()) > 1 for sigma in seen)  # boosted samples are churned more than the others


def test_the_ranges_are_those_of_table_1() -> None:
    assert default_range("vp") == pytest.approx((sigma_from_tau(1e-3), 152.167), rel=1e-6)
    assert (default_range("ve"), default_range("iddpm"), default_range("edm")) == (
        (0.02, 100.0),
        (0.002, 81.0),
        (0.002, 80.0),
    )


def test_vp_betas_pass_both_levels_and_are_the_published_ones_for_their_range() -> None:
    assert vp_betas(*default_range("vp")) == pytest.approx((19.9, 0.1), rel=1e-9)
    for low, high in ((0.002, 80.0), (0.02, 100.0)):
        beta_d, beta_min = vp_betas(low, high, 1e-2)
        for t, sigma in ((1e-2, low), (1.0, high)):
            assert math.sqrt(math.expm1(beta_d * t**2 / 2 + beta_min * t)) == pytest.approx(sigma, rel=1e-9)


def test_ve_levels_are_geometric_and_vp_levels_equidistant_in_time() -> None:
    ve = ablation_sigmas(9, "ve")
    assert [a / b for a, b in pairwise(ve[:-1])] == pytest.approx([5000 ** (1 / 8)] * 8)
    vp = ablation_sigmas(9, "vp")
    beta_d, beta_min = vp_betas(vp[-2], vp[0])
    times = [
        (math.sqrt(beta_min**2 + 2 * beta_d * math.log1p(sigma**2)) - beta_min) / beta_d for sigma in vp[:-1]
    ]
    assert [a - b for a, b in pairwise(times)] == pytest.approx([(1 - 1e-3) / 8] * 8)


def test_iddpm_levels_are_those_of_a_cosine_schedule() -> None:
    """1 / (1 + sigma^2) is the square of a sine at equidistant angles, divided by the last one's, where C_1
    does not bound the ratio."""
    every = ablation_sigmas(992, "iddpm")
    assert (
        len(every) == 993
        and every[-1] == 0.0
        and 80 < every[0] < 81
        and all(a > b for a, b in pairwise(every))
    )
    last = math.sin(math.pi / 2 / 1.008)
    angles = [math.asin(last / math.sqrt(1 + sigma**2)) for sigma in every[:-1]]
    assert [b - a for a, b in pairwise(angles)] == pytest.approx([math.pi / 2 / 1000 / 1.008] * 991, rel=1e-6)


@pytest.mark.parametrize("discretization", ["vp", "ve", "iddpm", "edm"])
def test_a_narrowed_range_holds_all_levels(discretization: Any) -> None:
    sigmas = ablation_sigmas(20, discretization, 0.1, 10.0)
    assert len(sigmas) == 21 and sigmas[-1] == 0.0
    assert sigmas[-2] >= 0.1 * (1 - 1e-12) and sigmas[0] <= 10.0 * (1 + 1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 1}, "num_steps >= 2"),
        ({"sigma_min": 90.0}, "sigma_min < sigma_max"),
        ({"discretization": "ddpm"}, "one of vp, ve, iddpm, edm"),
        ({"discretization": "iddpm", "num_steps": 2000}, "at most 992"),
    ],
)
def test_levels_that_cannot_be_are_refused(options: dict, message: str) -> None:
    arguments: dict[str, Any] = {"num_steps": 18} | options
    with pytest.raises(ValueError, match=message):
        ablation_sigmas(**arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "cosine"}, "schedule"),
        ({"scaling": "ve"}, "scaling"),
        ({"solver": "rk4"}, "solver"),
        ({"alpha": 0.0}, "alpha"),
        ({"S_churn": 1.0}, "churn_noise"),
        ({"sigmas": (2.0, 1.0)}, "ending in 0"),
        ({"round_sigma": lambda sigma: torch.ones_like(sigma)}, "rounded"),
    ],
)
def test_choices_that_are_none_are_refused_before_any_evaluation(options: dict, message: str) -> None:
    def fails(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        raise AssertionError("evaluated")

    arguments: dict[str, Any] = {"sigmas": edm_sigmas(18)} | options
    with pytest.raises(ValueError, match=message):
        ablation(fails, LATENTS, **arguments)


def test_no_step_reads_a_number_back_from_the_device() -> None:
    # Of evaluations only: the schedule is rounded and read before the first.
    started: list[bool] = []

    def denoiser(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        started.append(True)
        return gaussian(x, sigma, class_labels)

    prepared = [churn_noise(step) for step in range(18)]
    term = DiscriminatorTerm(
        lambda y, tau, labels: y.sum(1),
        DiscriminatorSettings(weight=2.0, second_order_weight=1.0, tau_max=0.5, boost=Boost()),
    )
    options: dict[str, Any] = {
        "guidance": [term],
        "churn_noise": prepared.__getitem__,
        "S_churn": 2.0,
        "round_sigma": nearest,
    }
    with ForbidReads(lambda: bool(started)):
        ablation(denoiser, LATENTS, edm_sigmas(18), schedule="vp", scaling="vp", **options)

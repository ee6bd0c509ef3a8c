"""Heun's sampler on problems with known answers: Gaussians, closed forms of churn, and evaluation counts."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusion.device_reads import ForbidReads
from diffusion.mixtures import REAL, ClassifierFreeDenoiser
from torch import Tensor

from dgflow.diffusion import noise
from dgflow.diffusion.classifier_guidance import ClassifierTerm
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
from dgflow.diffusion.edm_seeding import edm_draws
from dgflow.diffusion.guidance_settings import Boost, ClassifierSettings, DiscriminatorSettings, Switch
from dgflow.diffusion.heun import edm_sigmas, heun

INDEX = torch.arange(8)
LATENTS = noise.standard_normal(1, INDEX, (2,), step=0, draw=noise.LATENT)


def churn_noise(step: int) -> Tensor:
    return noise.standard_normal(1, INDEX, (2,), step=step, draw=noise.CHURN)


def zero(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
    """The denoiser of data that are all 0: then dx/dsigma = x / sigma, and any method solves it exactly:
    x(sigma) = x * sigma / sigma_0."""
    return torch.zeros_like(x)


def test_the_schedule_is_equation_5_of_karras_et_al() -> None:
    sigmas = edm_sigmas(18)
    assert len(sigmas) == 19 and sigmas[-1] == 0.0
    assert (sigmas[0], sigmas[17]) == pytest.approx((80.0, 0.002), rel=1e-13)
    roots = [sigma ** (1 / 7) for sigma in sigmas[:-1]]
    assert [a - b for a, b in pairwise(roots)] == pytest.approx(
        [(80 ** (1 / 7) - 0.002 ** (1 / 7)) / 17] * 17
    )


@pytest.mark.parametrize(
    "options",
    [{"num_steps": 1}, {"sigma_min": 0.0}, {"sigma_min": 90.0}, {"sigma_max": math.inf}, {"rho": 0.0}],
)
def test_a_schedule_that_cannot_be_is_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="sigma_min < sigma_max"):
        edm_sigmas(**{"num_steps": 18} | options)


@pytest.mark.parametrize(
    "sigmas", [(1.0,), (1.0, 2.0), (1.0, 1.0, 0.0), (1.0, -0.1), (math.inf, 0.0), (1.0, math.nan)]
)
def test_levels_that_do_not_fall_are_refused(sigmas: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="decreasing"):
        heun(zero, LATENTS, sigmas)


@pytest.mark.parametrize("num_steps", [3, 18, 40])
def test_nfe_counts_the_denoiser_s_evaluations(num_steps: int) -> None:
    calls = []

    def counting(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        calls.append(sigma)
        return zero(x, sigma, class_labels)

    assert heun(counting, LATENTS, edm_sigmas(num_steps)).nfe == len(calls) == 2 * num_steps - 1


def test_heun_converges_with_the_square_of_the_number_of_steps() -> None:
    """For data N(0, 0.5^2), x(sigma) is proportional to sqrt(0.25 + sigma^2)."""

    def gaussian(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        return x * (0.25 / (0.25 + sigma**2))[:, None]

    exact = LATENTS * 80 * math.sqrt(0.25 + 0.002**2) / math.sqrt(0.25 + 80**2)
    errors = [
        float((heun(gaussian, LATENTS, edm_sigmas(n)[:-1]).x - exact).abs().max()) for n in (32, 64, 128, 256)
    ]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert orders[-1] == pytest.approx(2, abs=0.1) and errors[-1] < 3e-4


def test_samples_of_a_mixture_have_its_moments() -> None:
    index = torch.arange(20_000)
    latents = noise.standard_normal(2, index, (2,), step=0, draw=noise.LATENT)
    x = heun(REAL.denoiser, latents, edm_sigmas(64)).x
    # Mean 0.5, variance 0.09 + 0.25 * 0.75 * 4 = 0.84 in the first coordinate; 0.125, 0.09 + 0.1875 * 0.25 in
    # the second.
    assert x.mean(0).tolist() == pytest.approx([0.5, 0.125], abs=4 * math.sqrt(0.84 / len(index)))
    assert x.var(0).tolist() == pytest.approx([0.84, 0.136875], rel=0.03)
    assert float((x[:, 0] < 0).double().mean()) == pytest.approx(0.25, abs=0.013)


def test_a_float32_denoiser_moves_float64_samples_by_rounding_only() -> None:
    def single(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        return REAL.denoiser(x.float(), sigma.float())

    sigmas = edm_sigmas(18)
    rounded, exact = heun(single, LATENTS, sigmas).x, heun(REAL.denoiser, LATENTS, sigmas).x
    assert rounded.dtype == exact.dtype == torch.float64
    torch.testing.assert_close(rounded, exact, rtol=0, atol=2e-5)
    assert torch.equal(
        heun(REAL.denoiser, LATENTS.float().double(), sigmas).x,
        heun(REAL.denoiser, LATENTS.float(), sigmas).x,
    )


def test_churn_adds_noise_up_to_the_raised_level_inside_its_range_only() -> None:
    sigmas, S_churn, S_noise = (8.0, 4.0, 2.0, 1.0), 0.9, 1.003
    expected, gamma = LATENTS * 8, 0.3
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        sigma_hat = sigma
        if sigma == 4.0:
            sigma_hat = sigma * (1 + gamma)
            expected = expected + math.sqrt(sigma_hat**2 - sigma**2) * S_noise * churn_noise(step)
        expected = expected * sigma_next / sigma_hat
    asked: list[int] = []

    def record(step: int) -> Tensor:
        asked.append(step)
        return churn_noise(step)

    found = heun(
        zero, LATENTS, sigmas, churn_noise=record, S_churn=S_churn, S_min=3.0, S_max=5.0, S_noise=S_noise
    ).x
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    assert asked == [1]


def test_churn_is_capped_at_sqrt_2_minus_1() -> None:
    seen = []

    def record(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        seen.append(float(sigma[0]))
        return torch.zeros_like(x)

    heun(record, LATENTS, (8.0, 4.0), churn_noise=churn_noise, S_churn=100.0)
    assert seen == pytest.approx([8 * math.sqrt(2), 4.0])


def test_churn_without_its_noise_is_refused_before_any_evaluation() -> None:
    def fails(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        raise AssertionError("evaluated")

    boosted = DiscriminatorTerm(lambda y, tau, labels: y.sum(1), DiscriminatorSettings(boost=Boost()))
    choices: list[dict[str, Any]] = [{"S_churn": 1.0}, {"guidance": [boosted]}]
    for options in choices:
        with pytest.raises(ValueError, match="churn_noise"):
            heun(fails, LATENTS, edm_sigmas(18), **options)


def test_no_step_reads_a_number_back_from_the_device() -> None:
    """Covers all guidance, windows, switches, boosts and churn: no item(), no bool() of a tensor, no boolean
    indexing."""

    prepared = [churn_noise(step) for step in range(18)]
    switch = Switch(above=0.5, below=2.0, timestep=299)
    terms = [
        ClassifierTerm(
            lambda y, time: y, ClassifierSettings(weight=switch, tau_max=0.8, entropy_scaling=True)
        ),
        DiscriminatorTerm(
            lambda y, tau, labels: y.sum(1),
            DiscriminatorSettings(
                weight=switch,
                second_order_weight=1.0,
                tau_max=0.5,
                boost=Boost(weight=switch),
                match_preceding_norm=True,
            ),
        ),
    ]
    options: dict[str, Any] = {
        "class_labels": INDEX % 2,
        "churn_noise": prepared.__getitem__,
        "S_churn": 2.0,
        "S_max": 50.0,
    }
    with ForbidReads():
        heun(ClassifierFreeDenoiser(zero, 2, switch), LATENTS, edm_sigmas(18), guidance=terms, **options)


def test_no_graph_is_kept_for_the_denoiser() -> None:
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    assert not heun(lambda x, sigma, labels: x * scale, LATENTS, edm_sigmas(3)).x.requires_grad


def test_edm_seeding_does_not_depend_on_the_batch_and_skips_what_is_not_asked_for() -> None:
    latents, labels, draw = edm_draws([5, 6, 7], (2, 3), label_dim=10)
    alone, alone_label, draw_alone = edm_draws([6], (2, 3), label_dim=10)
    assert labels is not None and alone_label is not None
    assert torch.equal(alone[0], latents[1]) and int(alone_label) == int(labels[1])
    for step in (0, 1):
        draw(step)
    assert torch.equal(draw_alone(2)[0], draw(2)[1])
    with pytest.raises(ValueError, match="cannot go back"):
        draw(1)


def test_edm_seeding_draws_what_the_original_drew() -> None:
    """Compares with the numbers of EDM's generate.py at commit 008a4e5 for 3x16x16 samples of 10 classes:
    latents, labels, noise of the first two steps."""
    latents, labels, draw = edm_draws([0, 1, 2], (3, 16, 16), label_dim=10)
    assert labels is not None and labels.tolist() == [7, 0, 7]
    begin = [[-1.1258398, -1.1523602], [-1.5255959, -0.7502318], [-1.0408012, 0.91660416]]
    assert torch.equal(latents[:, 0, 0, :2], torch.tensor(begin))
    assert draw(0)[:, 0, 0, 0].tolist() == [-0.8251539407976844, -1.348620606745389, -0.030801878509725437]
    assert draw(1)[:, 0, 0, 0].tolist() == [-1.0369401884887308, -0.5758885881339594, 0.3404179166167423]

"""A second network and scaled noise as corrections of the denoised image, on Gaussians with corrected flows
in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from diffusion.mixtures import MODEL, REAL, exact_log_ratio
from torch import Tensor

from dgflow.diffusion import noise
from dgflow.diffusion.ablation import ablation, ablation_sigmas
from dgflow.diffusion.correction_settings import NetworkSettings, ScalingSettings
from dgflow.diffusion.corrections import NetworkCorrection, NoiseScaling
from dgflow.diffusion.ddpm import ddim, ddpm
from dgflow.diffusion.denoisers import predictor_of
from dgflow.diffusion.discrete import DiscreteSchedule
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
from dgflow.diffusion.guidance import Guide, Point, guide
from dgflow.diffusion.guidance_settings import DiscriminatorSettings
from dgflow.diffusion.heun import edm_sigmas, heun
from dgflow.diffusion.likelihood import log_likelihood
from dgflow.diffusion.rk45 import rk45
from dgflow.diffusion.samplers import Denoiser, Sample
from dgflow.diffusion.score_model import ScoreModel
from dgflow.diffusion.times import per_sample, sigma_from_tau

TAU_MIN, TAU_MAX = 1e-5, 1.0
BOTTOM, TOP = sigma_from_tau(TAU_MIN), sigma_from_tau(TAU_MAX)
SCHEDULE = DiscreteSchedule.of("linear", 1000, "12")


@dataclass
class Gaussian:
    """The denoiser of N(mean, std^2) in every coordinate, which records its noise levels."""

    mean: float
    std: float

    def __post_init__(self) -> None:
        self.asked: list[float] = []

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        self.asked.append(float(sigma.max()))
        kept = self.std**2 / (self.std**2 + per_sample(sigma, x).square())
        return self.mean + kept * (x - self.mean)


def latents(count: int = 5) -> Tensor:
    return noise.standard_normal(11, torch.arange(count), (3,), step=0, draw=noise.LATENT)


def normals(step: int) -> Tensor:
    return noise.standard_normal(11, torch.arange(5), (3,), step=step, draw=noise.CHURN)


def second(denoiser: Denoiser, weight: float, **window: Any) -> NetworkCorrection:
    return NetworkCorrection(ScoreModel(denoiser), NetworkSettings(weight=weight, **window))


def scaling(factor: float, **others: Any) -> NoiseScaling:
    return NoiseScaling(ScalingSettings(factor=factor, **others))


Run = Callable[[Denoiser, list[Guide]], Sample]
SAMPLERS: dict[str, Run] = {
    "heun": lambda denoiser, guidance: heun(
        denoiser, latents(), edm_sigmas(9), guidance=guidance, S_churn=3.0, churn_noise=normals
    ),
    "ablation": lambda denoiser, guidance: ablation(
        denoiser, latents(), ablation_sigmas(9, "vp"), schedule="vp", scaling="vp", guidance=guidance
    ),
    "ddpm": lambda denoiser, guidance: ddpm(
        predictor_of(denoiser, SCHEDULE),
        latents(),
        SCHEDULE,
        noise=normals,
        guidance=guidance,
        clip_denoised=False,
    ),
    "ddim": lambda denoiser, guidance: ddim(
        predictor_of(denoiser, SCHEDULE), latents(), SCHEDULE, guidance=guidance, clip_denoised=False
    ),
    "rk45": lambda denoiser, guidance: rk45(denoiser, latents(), rtol=1e-3, atol=1e-3, guidance=guidance),
}


@pytest.mark.parametrize("run", SAMPLERS.values(), ids=SAMPLERS)
def test_corrections_that_change_nothing_leave_every_bit_and_ask_nobody(run: Run) -> None:
    other = Gaussian(2.0, 1.0)
    idle = [
        second(other, 1.0),
        second(other, 3.0, sigma_min=1000.0),
        second(other, 3.0, sigma_max=1e-9),
        scaling(1.0),
    ]
    plain, corrected = run(MODEL_3, []), run(MODEL_3, idle)
    assert torch.equal(plain.x, corrected.x) and corrected.guidance_nfe == 0 and not other.asked


def MODEL_3(x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
    """Two components in each coordinate."""
    variance = 0.04 + per_sample(sigma, x).square()
    return 0.04 / variance * x + (1 - 0.04 / variance) * torch.tanh(x / variance)


@pytest.mark.parametrize("run", SAMPLERS.values(), ids=SAMPLERS)
def test_away_from_a_gaussian_of_the_same_width_is_a_gaussian_beyond(run: Run) -> None:
    """The mean is m_other + w (m - m_other), for every sampler, step for step."""
    weight = 2.5
    found = run(Gaussian(0.5, 0.3), [second(Gaussian(-0.1, 0.3), weight)])
    expected = run(Gaussian(-0.1 + weight * 0.6, 0.3), [])
    torch.testing.assert_close(found.x, expected.x, rtol=1e-4, atol=1e-4)
    assert found.guidance_nfe == found.nfe == expected.nfe


def test_between_gaussians_of_two_widths_within_a_range_the_flow_is_the_closed_form() -> None:
    """dx / dsigma = sigma x ((1 - w) / (s_other^2 + sigma^2) + w / (s^2 + sigma^2)); an adaptive solver stops
    at the ends of the range, where the slope jumps, and evaluates the second network only inside."""
    std, wider, weight, low, high = 0.5, 0.9, 1.8, 0.3, 3.0
    other = Gaussian(0.0, wider)
    found = rk45(
        Gaussian(0.0, std),
        latents(),
        rtol=1e-8,
        atol=1e-8,
        guidance=[second(other, weight, sigma_min=low, sigma_max=high)],
    )

    def shrunk(width: float, first: float, last: float) -> float:
        return math.sqrt((width**2 + last**2) / (width**2 + first**2))

    factor = shrunk(std, TOP, high) * shrunk(std, low, BOTTOM)
    factor *= shrunk(std, high, low) ** weight * shrunk(wider, high, low) ** (1 - weight)
    begun = TOP / sigma_of_state(TOP)  # RK45 starts with unit noise, x = sqrt(1 + sigma^2) y
    expected = latents() * TOP / begun * factor / sigma_of_state(BOTTOM)
    torch.testing.assert_close(found.x, expected, rtol=1e-5, atol=1e-7)
    assert low <= min(other.asked) and max(other.asked) <= high


def sigma_of_state(sigma: float) -> float:
    return math.hypot(1.0, sigma)


def test_scaled_noise_stretches_the_flow_by_its_divisor() -> None:
    """For a Gaussian, dx / dsigma = sigma x / (factor (s^2 + sigma^2))."""
    std, factor = 0.5, 1.05
    found = rk45(Gaussian(0.0, std), latents(), rtol=1e-8, atol=1e-8, guidance=[scaling(factor)])
    kept = ((std**2 + BOTTOM**2) / (std**2 + TOP**2)) ** (0.5 / factor)
    expected = latents() * sigma_of_state(TOP) * kept / sigma_of_state(BOTTOM)
    torch.testing.assert_close(found.x, expected, rtol=1e-5, atol=1e-7)


def test_a_divisor_with_a_slope_is_linear_in_time() -> None:
    tau = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    x, denoised = torch.ones(3, 2).double(), torch.zeros(3, 2).double()
    found = scaling(1.1, slope=0.4).scaled(x, sigma_from_tau(tau), denoised)
    assert found is not None
    torch.testing.assert_close(1 / (1 - found[:, 0]), 1.1 + 0.4 * tau, rtol=1e-12, atol=0)


def test_a_step_is_guided_in_both_evaluations_where_it_begins() -> None:
    """The range applies neither at the level that churn raises it to, nor at that of its second
    evaluation."""
    levels = edm_sigmas(12)
    other = Gaussian(0.0, 0.3)
    heun(
        MODEL_3,
        latents(),
        levels,
        guidance=[second(other, 2.0, sigma_min=levels[6], sigma_max=levels[3])],
        S_churn=4.0,
        churn_noise=normals,
    )
    raised = min(4.0 / 12, math.sqrt(2) - 1)
    begins = [level * (1 + raised) for level in levels[3:7]]
    expected = [each for pair in zip(begins, levels[4:8], strict=True) for each in pair]
    assert other.asked == pytest.approx(expected, rel=1e-12)


def test_samples_of_a_batch_that_stand_elsewhere_are_guided_by_their_own_steps() -> None:
    """Batches of a path have rows at several positions too; a NaN outside the range affects no sample."""
    began = torch.tensor([5.0, 1.0, 0.2], dtype=torch.float64)
    x = latents(3)

    def other(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        return torch.where(per_sample(sigma, x) > 4.0, torch.nan, -x)

    correction = second(other, 3.0, sigma_min=0.5, sigma_max=2.0)
    point = Point(x, began, None, 0, 1, (0.2, 5.0), denoised=x, step_sigma=began, step_bounds=(0.2, 5.0))
    found = guide([correction], point).denoised
    assert torch.equal(found[[0, 2]], x[[0, 2]])
    torch.testing.assert_close(found[1], 5.0 * x[1])


def test_corrections_act_in_order_before_any_gradient_which_sees_them() -> None:
    x, sigma = latents(2), torch.tensor([0.7, 0.7], dtype=torch.float64)
    seen: list[Tensor | None] = []

    def term(point: Point) -> tuple[Tensor, None]:
        seen.append(point.denoised)
        return torch.ones_like(point.x), None

    network, scaled = second(lambda x, sigma, labels: 0.0 * x, 2.0), scaling(2.0)
    for order, expected in (([network, scaled], 0.9 * x), ([scaled, network], 1.4 * x)):
        advice = guide([term, *order], Point(x, sigma, None, 0, 1, (0.7, 0.7), denoised=0.4 * x))
        torch.testing.assert_close(advice.denoised, expected)
        assert seen[-1] is advice.denoised
        assert advice.asked == (True, *(entry is network for entry in order))  # scaling evaluates no network


def test_guided_by_both_a_gradient_and_a_second_network_the_flow_has_both() -> None:
    """The exact ratio turns the model into the data; the second network has no further effect if it has the
    same data."""
    x = latents()[:, :2]
    exact = DiscriminatorTerm(
        exact_log_ratio, DiscriminatorSettings(weight=1.0, second_order_weight=1.0, tau_min=0.0)
    )
    corrected = [second(REAL.denoiser, 0.0), second(MODEL.denoiser, 0.0), exact]
    found = heun(MODEL.denoiser, x, edm_sigmas(18), guidance=corrected)
    expected = heun(REAL.denoiser, x, edm_sigmas(18))
    torch.testing.assert_close(found.x, expected.x, rtol=1e-4, atol=1e-4)
    assert found.guidance_nfe == 3 * found.nfe


@pytest.mark.parametrize("probe", [None, torch.ones(5, 3)], ids=["exact", "hutchinson"])
def test_the_likelihood_of_a_corrected_flow_is_that_of_its_gaussian(probe: Tensor | None) -> None:
    """The flow is linear: it scales x about the mean, and every vector of signs gives its trace."""
    guidance: list[Guide] = [second(Gaussian(-0.1, 0.3), 2.5)]
    x = 0.4 * latents()
    options: dict[str, Any] = {"sigma_min": 0.01, "sigma_max": 80.0, "rtol": 1e-7, "atol": 1e-7}
    found = log_likelihood(Gaussian(0.5, 0.3), x, guidance=guidance, probe=probe, **options)
    stretch = math.sqrt((0.3**2 + 80.0**2) / (0.3**2 + 0.01**2))
    begun = (1.4 + stretch * (x - 1.4)) / 80.0
    exact = -0.5 * begun.square().sum(1) + 3 * math.log(stretch / (80.0 * math.sqrt(2 * math.pi)))
    torch.testing.assert_close(found.nats, exact, rtol=1e-5, atol=1e-4)


def test_a_network_that_does_not_know_the_levels_is_refused_unless_its_range_leaves_them_out() -> None:
    model = replace(ScoreModel(Gaussian(0.0, 0.5)), sigma_range=(0.01, 80.0))

    def run(**window: Any) -> Sample:
        correction = NetworkCorrection(model, NetworkSettings(weight=2.0, **window))
        return heun(MODEL_3, latents(), edm_sigmas(9), guidance=[correction])

    with pytest.raises(ValueError, match=r"guides, 0\.00\d+ to .* found one for 0\.01 to 80: narrow"):
        run()
    assert run(sigma_min=0.1).guidance_nfe > 0


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sigma_min <= sigma_max, found 2\.0 and 1\.0: no step would"):
        NetworkSettings(weight=2.0, sigma_min=2.0, sigma_max=1.0)
    with pytest.raises(ValueError, match="greater than 0"):
        ScalingSettings(factor=0.0)
    with pytest.raises(ValueError, match=r"divisor above 0 .* found 1\.0 \+ -1\.0"):
        ScalingSettings(factor=1.0, slope=-1.0)
    with pytest.raises(ValueError, match="expected a network with a null class"):
        ScoreModel(Gaussian(0.0, 1.0)).of_null_class()

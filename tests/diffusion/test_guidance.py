"""Discriminator guidance on mixtures with known log-ratio, and its windows, boosts and switches on closed
forms."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from diffusion.mixtures import MODEL, REAL, exact_log_ratio
from diffusion.published import BatchWindow
from torch import Tensor

from dgflow.diffusion import noise
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm, log_ratio_and_gradient
from dgflow.diffusion.guidance import OUTSIDE_LOG_RATIO, Point
from dgflow.diffusion.guidance_settings import Boost, DiscriminatorSettings
from dgflow.diffusion.heun import edm_sigmas, heun
from dgflow.diffusion.samplers import Sample
from dgflow.diffusion.times import TimeMap, cosine_from_sigma, tau_from_sigma

BOUNDS = (0.002, 80.0)


def latents(count: int) -> Tensor:
    return noise.standard_normal(3, torch.arange(count), (2,), step=0, draw=noise.LATENT)


def guided(x: Tensor, num_steps: int, weight: float, second: float) -> Tensor:
    term = DiscriminatorTerm(
        exact_log_ratio, DiscriminatorSettings(weight=weight, second_order_weight=second, tau_min=0.0)
    )
    return heun(MODEL.denoiser, x, edm_sigmas(num_steps), guidance=[term]).x


class Signs:
    """A discriminator with zero gradient whose logit is +1 or -1 by the sample's class label; it records its
    calls."""

    def __init__(self) -> None:
        self.taus: list[Tensor] = []

    def __call__(self, y: Tensor, tau: Tensor, class_labels: Tensor | None) -> Tensor:
        assert class_labels is not None and y.dtype == tau.dtype == torch.float32
        self.taus.append(tau)
        return 0.0 * y.flatten(1).sum(1) + torch.where(class_labels > 0, 1.0, -1.0)


def linear(y: Tensor, tau: Tensor, class_labels: Tensor | None) -> Tensor:
    """Returns a log-ratio with gradient (3, -1) with respect to y everywhere."""
    return y @ torch.tensor([3.0, -1.0])


def zero(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
    return torch.zeros_like(x)


def test_weight_1_with_an_exact_ratio_turns_the_model_into_the_data() -> None:
    """The corrected score is the score of REAL, so the same latents end where the denoiser of REAL takes
    them."""
    x = latents(4000)
    right, wrong = heun(REAL.denoiser, x, edm_sigmas(18)).x, heun(MODEL.denoiser, x, edm_sigmas(18)).x
    found = guided(x, 18, 1.0, 1.0)
    assert float((found - right).abs().max()) < 1e-3 < 0.3 < float((wrong - right).abs().mean())
    assert float((found[:, 0] < 0).double().mean()) == pytest.approx(0.25, abs=0.03)
    assert float((wrong[:, 0] < 0).double().mean()) == pytest.approx(0.60, abs=0.03)


def test_weights_2_and_0_approach_weights_1_and_1_with_the_step_size() -> None:
    x = latents(500)
    differences = [
        float((guided(x, n, 2.0, 0.0) - guided(x, n, 1.0, 1.0)).abs().mean()) for n in (32, 64, 128)
    ]
    moved = float((guided(x, 128, 1.0, 1.0) - guided(x, 128, 0.0, 0.0)).abs().mean())
    assert differences[2] < 0.03 * moved
    assert differences[0] / differences[1] > 1.7 and differences[1] / differences[2] > 1.7


def test_without_a_second_order_half_of_the_weight_takes_effect() -> None:
    """With a zero denoiser, one Heun step 2 -> 1 gives x_1 = x_2 / 2 + (1 - 2) * d / 2 with d the mean of
    both orders' guidance slopes."""
    x, sigma = latents(3), 2.0
    slope = -sigma / math.sqrt(1 + sigma**2) * torch.tensor([3.0, -1.0]).double()
    plain = heun(zero, x, (2.0, 1.0)).x
    for weight in (1.0, 2.0):
        found = heun(
            zero, x, (2.0, 1.0), guidance=[DiscriminatorTerm(linear, DiscriminatorSettings(weight=weight))]
        ).x
        # The correction's own denoising slope is taken at the predictor, which was moved by the whole weight:
        # x_next / 1 adds w * slope once more.
        expected = plain + 0.5 * (1 - 2) * weight * slope + 0.5 * (1 - 2) * (1 - 2) * weight * slope / 1.0
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("time", [tau_from_sigma, cosine_from_sigma])
def test_the_gradient_is_that_of_finite_differences_with_respect_to_x(time: TimeMap) -> None:
    x = 3 * latents(6)
    sigma = torch.tensor([0.05, 0.3, 1.0, 2.0, 10.0, 79.0], dtype=torch.float64)

    def value(x: Tensor) -> Tensor:
        return REAL.log_density(x, sigma) - MODEL.log_density(x, sigma)

    def with_time(y: Tensor, told: Tensor, class_labels: Tensor | None) -> Tensor:
        # The exact tau, so that the network's float32 time does not affect the measurement.
        return value(y.double() * (1 + sigma**2).sqrt()[:, None])

    term = DiscriminatorTerm(with_time, DiscriminatorSettings(weight=1.7, tau_min=0.0), time=time)
    gradient, log_ratio = term(Point(x, sigma, None, 1, 1, BOUNDS))
    assert gradient is not None and log_ratio is not None and gradient.dtype == torch.float64
    for i in range(2):
        h = torch.zeros(2, dtype=torch.float64)
        h[i] = 1e-6
        difference = 1.7 * (value(x + h) - value(x - h)) / 2e-6
        torch.testing.assert_close(gradient[:, i], difference, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(log_ratio, value(x), rtol=1e-5, atol=1e-5)


def test_the_slope_changes_by_the_published_amount() -> None:
    """-sigma * gradient = -weight * sigma / sqrt(1 + sigma^2) * d log_ratio / dy."""
    sigma = torch.tensor([0.1, 5.0], dtype=torch.float64)
    gradient, _ = DiscriminatorTerm(linear, DiscriminatorSettings(weight=2.0))(
        Point(latents(2), sigma, None, 1, 1, (0.1, 5.0))
    )
    assert gradient is not None
    expected = -2 * (sigma / (1 + sigma**2).sqrt())[:, None] * torch.tensor([3.0, -1.0])
    torch.testing.assert_close(-sigma[:, None] * gradient, expected, rtol=1e-6, atol=0)


def run_boosted(index: Tensor) -> Sample:
    """Runs with everything on: window, boosts, churn, both orders, on samples of the given indices."""
    x = noise.standard_normal(3, index, (2,), step=0, draw=noise.LATENT)
    term = DiscriminatorTerm(
        exact_log_ratio,
        DiscriminatorSettings(weight=1.5, second_order_weight=0.5, tau_max=0.8, boost=Boost()),
    )
    churn = {
        "S_churn": 2.0,
        "churn_noise": lambda step: noise.standard_normal(3, index, (2,), step=step, draw=noise.CHURN),
    }
    return heun(MODEL.denoiser, x, edm_sigmas(18), guidance=[term], **churn)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    index = torch.arange(12)
    whole = run_boosted(index)
    assert whole.log_ratio is not None
    for part in (index[:1], index[3:8], index.flip(0)):
        some = run_boosted(part)
        torch.testing.assert_close(some.x, whole.x[part], rtol=0, atol=1e-5)
        assert some.log_ratio is not None
        torch.testing.assert_close(some.log_ratio, whole.log_ratio[part], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("second", "evaluated"), [(0.0, 15), (1.0, 29)])
def test_the_discriminator_is_evaluated_inside_the_window_only(second: float, evaluated: int) -> None:
    net = Signs()
    term = DiscriminatorTerm(net, DiscriminatorSettings(second_order_weight=second))
    sample = heun(
        zero, latents(4), edm_sigmas(18), class_labels=torch.ones(4, dtype=torch.int64), guidance=[term]
    )
    assert sample.guidance_nfe == len(net.taus) == evaluated and sample.nfe == 35
    assert float(torch.cat(net.taus).min()) >= 0.01


def test_a_weight_of_0_is_not_evaluated() -> None:
    net = Signs()
    assert DiscriminatorTerm(net, DiscriminatorSettings(weight=0.0))(
        Point(latents(1), torch.ones(1), None, 0, 1, (1, 1))
    ) == (None, None)
    assert net.taus == []


@pytest.mark.parametrize(
    ("batch_window", "sigma", "inside"),
    [
        (False, [0.004, 0.9, 2.0, 79.0], [False, True, True, False]),
        (True, [0.004, 0.9, 4.0, 79.0], [False, False, False, False]),
        (True, [0.9, 4.0, 30.0, 79.0], [True, True, True, True]),
    ],
    ids=["per sample", "published, smallest below", "published, largest above"],
)
def test_the_window_is_per_sample_and_the_published_one_goes_by_the_smallest_tau(
    batch_window: bool, sigma: list[float], inside: list[bool]
) -> None:
    term = DiscriminatorTerm(linear, DiscriminatorSettings(tau_max=0.5))
    gradient, log_ratio = (BatchWindow(term) if batch_window else term)(
        Point(latents(4), torch.tensor(sigma).double(), None, 1, 1, (min(sigma), max(sigma)))
    )
    assert gradient is not None and log_ratio is not None
    assert (log_ratio != OUTSIDE_LOG_RATIO).tolist() == inside
    assert (gradient != 0).any(1).tolist() == inside


def test_a_nan_inside_the_window_is_passed_on_and_outside_it_is_not_evaluated() -> None:
    def broken(y: Tensor, tau: Tensor, class_labels: Tensor | None) -> Tensor:
        return y.sum(1) * torch.where(tau < 0.02, math.nan, 1.0)

    steps = edm_sigmas(18)
    assert (
        heun(
            zero, latents(2), steps, guidance=[DiscriminatorTerm(broken, DiscriminatorSettings(tau_min=0.02))]
        )
        .x.isfinite()
        .all()
    )
    assert (
        heun(
            zero, latents(2), steps, guidance=[DiscriminatorTerm(broken, DiscriminatorSettings(tau_min=0.01))]
        )
        .x.isnan()
        .all()
    )
    term, sigma = (
        DiscriminatorTerm(broken, DiscriminatorSettings(tau_min=0.02)),
        torch.tensor([0.01, 1.0]).double(),
    )
    gradient, log_ratio = term(Point(latents(2), sigma, None, 1, 1, (0.01, 1.0)))
    assert (
        gradient is not None
        and log_ratio is not None
        and gradient.isfinite().all()
        and log_ratio.isfinite().all()
    )


@pytest.mark.parametrize(
    ("step", "order", "factor"), [(0, 1, 2.0), (1, 1, 1.0), (2, 1, 2.0), (4, 1, 2.0), (2, 2, 1.0)]
)
def test_the_boost_doubles_first_order_gradients_of_fake_looking_samples_at_even_steps(
    step: int, order: int, factor: float
) -> None:
    x, sigma = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double(), torch.ones(2).double()
    point = Point(x, sigma, None, step, order, (1, 1))
    plain, log_ratio = DiscriminatorTerm(linear, DiscriminatorSettings(second_order_weight=1.0))(point)
    boosted, same = DiscriminatorTerm(linear, DiscriminatorSettings(second_order_weight=1.0, boost=Boost()))(
        point
    )
    assert plain is not None and boosted is not None and log_ratio is not None and same is not None
    assert torch.equal(log_ratio, same) and (log_ratio < 0).tolist() == [False, True]
    torch.testing.assert_close(
        boosted / plain, torch.tensor([[1.0, 1.0], [factor, factor]]).double(), rtol=1e-12, atol=0
    )


def test_the_boost_churns_fake_looking_samples_at_every_fifth_step_of_the_window() -> None:
    """Steps 5, 10 and 15 of 18 are churned by gamma = 4 / 18; step 0 is not, since no step precedes it."""
    labels, asked, levels = torch.tensor([0, 1]), [], []

    def record(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        levels.append(sigma)
        return torch.zeros_like(x)

    def churn_noise(step: int) -> Tensor:
        asked.append(step)
        return torch.ones(2, 2)

    sigmas, term = (
        edm_sigmas(18)[:-1],
        DiscriminatorTerm(Signs(), DiscriminatorSettings(boost=Boost(S_noise=0.5))),
    )
    x = heun(record, latents(2), sigmas, class_labels=labels, guidance=[term], churn_noise=churn_noise).x
    num_steps = len(sigmas) - 1
    gamma = 4 / num_steps
    expected = latents(2) * sigmas[0]
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        raised = torch.full((2,), sigma, dtype=torch.float64)
        if step in (5, 10, 15):
            raised[0] *= 1 + gamma
            expected[0] += 0.5 * math.sqrt((1 + gamma) ** 2 - 1) * sigma
        torch.testing.assert_close(levels[2 * step], raised, rtol=1e-14, atol=0)
        expected = expected * (sigma_next / raised)[:, None]
    assert asked == [5, 10, 15]
    torch.testing.assert_close(x, expected, rtol=1e-12, atol=1e-14)


def test_a_sample_outside_the_window_in_the_step_before_is_not_churned() -> None:
    asked: list[int] = []
    term = DiscriminatorTerm(Signs(), DiscriminatorSettings(tau_max=0.3, boost=Boost(churn_period=1)))

    def churn_noise(step: int) -> Tensor:
        asked.append(step)
        return torch.zeros(1, 2)

    sigmas, labels = (80.0, 40.0, 1.0, 0.5, 0.01, 0.002, 0.0), torch.tensor([0])
    heun(zero, latents(1), sigmas, class_labels=labels, guidance=[term], churn_noise=churn_noise)
    # Inside: 1.0 and 0.5 (steps 2 and 3), so that steps 3 and 4 have a step inside before them.
    assert asked == [3, 4]


def test_the_log_ratio_of_a_sample_is_that_of_its_last_step_inside_the_window() -> None:
    seen = []

    def record(y: Tensor, tau: Tensor, class_labels: Tensor | None) -> Tensor:
        seen.append(exact_log_ratio(y, tau))
        return seen[-1]

    sample = heun(MODEL.denoiser, latents(5), edm_sigmas(18), guidance=[DiscriminatorTerm(record)])
    assert sample.log_ratio is not None and len(seen) == 15
    assert torch.equal(sample.log_ratio, seen[-1].detach())


def test_a_sample_that_leaves_the_window_before_its_mates_keeps_its_log_ratio() -> None:
    def term(point: Point) -> tuple[Tensor, Tensor]:
        inside = torch.tensor([True, point.step < 1, False])
        return torch.zeros_like(point.x), torch.where(inside, 10.0 + point.step, OUTSIDE_LOG_RATIO)

    log_ratio = heun(zero, latents(3), (8.0, 4.0, 2.0, 1.0), guidance=[term]).log_ratio
    assert log_ratio is not None and log_ratio.tolist() == [12.0, 10.0, OUTSIDE_LOG_RATIO]


def test_the_published_route_has_no_gradient_beyond_its_clip_and_the_logit_has() -> None:
    x, sigma = torch.tensor([[10.0, 0.0], [1.0, 0.0], [-10.0, 0.0]]).double(), torch.ones(3).double()
    log_ratio, gradient = log_ratio_and_gradient(linear, x, sigma, None, saturate=True)
    assert log_ratio.abs().max() == pytest.approx(math.log(1 / 1e-5 - 1), rel=1e-3)
    assert (gradient != 0).any(1).tolist() == [False, True, False]
    log_ratio, gradient = log_ratio_and_gradient(linear, x, sigma, None)
    assert float(log_ratio[0]) == pytest.approx(30 / math.sqrt(2)) and (gradient != 0).any(1).all()


def test_terms_add_up() -> None:
    half, whole = (
        DiscriminatorTerm(exact_log_ratio, DiscriminatorSettings(weight=0.5)),
        DiscriminatorTerm(exact_log_ratio, DiscriminatorSettings(weight=1.0)),
    )
    twice = heun(MODEL.denoiser, latents(5), edm_sigmas(18), guidance=[half, half])
    once = heun(MODEL.denoiser, latents(5), edm_sigmas(18), guidance=[whole])
    torch.testing.assert_close(twice.x, once.x, rtol=0, atol=1e-9)
    assert twice.guidance_nfe == 2 * once.guidance_nfe


def test_the_gradient_leaves_the_discriminator_s_parameters_alone() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.SiLU(), torch.nn.Linear(8, 1))
    log_ratio, gradient = log_ratio_and_gradient(
        lambda y, tau, labels: net(y).squeeze(1), latents(3), torch.ones(3), None
    )
    assert (
        all(parameter.grad is None for parameter in net.parameters())
        and not log_ratio.requires_grad
        and not gradient.requires_grad
    )


def test_a_discriminator_with_a_second_axis_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one logit per sample, \[3\], found \[3, 1\]"):
        log_ratio_and_gradient(lambda y, tau, labels: y[:, :1], latents(3), torch.ones(3), None)


@pytest.mark.parametrize(
    "options", [{"tau_min": -0.1}, {"tau_min": 0.5, "tau_max": 0.4}, {"tau_max": 1.1}, {"weight": math.nan}]
)
def test_a_window_or_weight_that_cannot_be_is_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=r"tau_m(in|ax)|finite number"):
        DiscriminatorSettings(**options)


def test_a_boost_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="period"):
        Boost(period=0)

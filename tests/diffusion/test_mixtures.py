"""The mathematics of Gaussian mixtures against numerical integration, automatic differentiation and other
closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from dgflow import GaussianMixture
from dgflow.diffusion import mixtures
from dgflow.diffusion.discriminator_guidance import log_ratio_and_gradient
from dgflow.diffusion.flow_density import flow_levels, flow_log_density, log_ratio_derivatives
from dgflow.metrics.energy_distance import energy_distance
from dgflow.networks.mixture.module import MixtureLogRatio

LINE = GaussianMixture(means=((-1.0,), (0.5,), (2.0,)), stds=(0.3, 0.8, 0.2), weights=(0.2, 0.5, 0.3))
REAL = GaussianMixture(means=((-1.5, 0.0), (1.5, 0.0)), stds=(0.5, 0.5), weights=(0.5, 0.5))
MODEL = GaussianMixture(means=((-1.5, 0.6), (1.5, -0.6)), stds=(0.6, 0.7), weights=(0.7, 0.3))
ONE = GaussianMixture(means=((0.3, -0.2),), stds=(0.8,), weights=(1.0,))
OTHER = GaussianMixture(means=((0.0, 0.5),), stds=(1.1,), weights=(1.0,))
X = torch.tensor([[0.1, -0.4], [1.2, 2.0], [-3.0, 0.3], [0.0, 0.0]], dtype=torch.float64)


def full(sigma: float, like: Tensor) -> Tensor:
    return torch.full((len(like),), sigma, dtype=torch.float64)


def kl(real: GaussianMixture, model: GaussianMixture, sigma: float, count: int) -> float:
    x, weights = mixtures.nodes(real, sigma, count)
    return float((weights * mixtures.log_ratio(real, model, x, full(sigma, x))).sum())


def test_the_noisy_density_is_the_convolution_of_the_density_with_the_noise():
    at = 0.7
    for sigma in (0.1, 1.0):

        def convolved(x0: float, sigma: float = sigma) -> float:
            point = torch.tensor([[x0]], dtype=torch.float64)
            density = float(mixtures.log_density(LINE, point, full(0.0, point)).exp())
            return density * math.exp(-(((at - x0) / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))

        expected, _ = quad(convolved, -8, 8, points=[-1.0, 0.5, at, 2.0], limit=200, epsabs=1e-11)
        point = torch.tensor([[at]], dtype=torch.float64)
        assert float(mixtures.log_density(LINE, point, full(sigma, point)).exp()) == pytest.approx(
            expected, rel=1e-8
        )


@pytest.mark.parametrize("sigma", [0.02, 0.4, 5.0])
def test_score_laplacian_and_denoiser_are_derivatives_of_the_log_density(sigma):
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        mixtures.log_density(MODEL, x, full(sigma, x)).sum(), x, create_graph=True
    )
    second = sum(torch.autograd.grad(gradient[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(2))
    torch.testing.assert_close(
        mixtures.score(MODEL, X, full(sigma, X)), gradient.detach(), rtol=1e-10, atol=1e-12
    )
    torch.testing.assert_close(mixtures.laplacian(MODEL, X, full(sigma, X)), second, rtol=1e-9, atol=1e-10)
    tweedie = X + sigma**2 * gradient.detach()
    torch.testing.assert_close(mixtures.denoised(MODEL, X, full(sigma, X)), tweedie, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_the_kl_of_two_gaussians_by_quadrature_is_the_closed_form(sigma):
    (a, b), square = (math.hypot(each.stds[0], sigma) for each in (ONE, OTHER)), 0.3**2 + 0.7**2
    closed = 2 * math.log(b / a) - 1 + a**2 / b**2 + square / (2 * b**2)
    # The integrand is a polynomial of degree 2, for which two nodes are exact.
    assert kl(ONE, OTHER, sigma, 2) == pytest.approx(closed, rel=1e-12)


def test_points_have_the_moments_of_their_mixture_and_depend_on_seed_and_index_alone():
    count = 20_000
    drawn = mixtures.points(MODEL, 7, torch.arange(count))
    mean = torch.tensor([-1.5 * 0.7 + 1.5 * 0.3, 0.6 * 0.7 - 0.6 * 0.3], dtype=torch.float64)
    # E|x|^2 = sum of weight * (|mean|^2 + 2 std^2); standard errors from the draws themselves, five of them.
    square = 0.7 * (1.5**2 + 0.6**2 + 2 * 0.6**2) + 0.3 * (1.5**2 + 0.6**2 + 2 * 0.7**2)
    squares = drawn.square().sum(1)
    assert ((drawn.mean(0) - mean).abs() < 5 * drawn.std(0) / math.sqrt(count)).all()
    assert abs(float(squares.mean()) - square) < 5 * float(squares.std()) / math.sqrt(count)
    assert torch.equal(mixtures.points(MODEL, 7, torch.tensor([19_999, 3])), drawn[[19_999, 3]])
    assert not torch.equal(mixtures.points(MODEL, 8, torch.arange(2)), drawn[:2])


def test_the_flow_of_the_exact_score_gives_the_exact_density():
    x, _ = mixtures.nodes(REAL, 0.02, 5)

    def field(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        return mixtures.score(MODEL, x, full(sigma, x)), mixtures.laplacian(MODEL, x, full(sigma, x))

    found = flow_log_density(field, x, flow_levels(0.02, 5_000.0, 64))
    exact = mixtures.log_density(MODEL, x, full(0.02, x))
    # The flow starts from N(0, 5000^2), while the mixture under that noise has its mean at 0.65: at four
    # standard deviations, the log-densities differ by 4 * 0.65 / 5000 = 5e-4. The rest is the method's error.
    assert float((found - exact).abs().max()) < 1e-3


def test_levels_of_a_flow_have_the_edges_of_a_window_among_them():
    levels = flow_levels(0.01, 100.0, 8, edges=(0.5, 1e-3, 20.0))
    assert levels[0] == 0.01 and levels[-1] == 100.0 and {0.5, 20.0} < set(levels)
    assert levels == sorted(levels) and len(levels) == len(set(levels)) and 1e-3 not in levels


def test_derivatives_of_a_log_ratio_are_those_of_the_two_densities():
    network, sigma = MixtureLogRatio(REAL, MODEL), 0.6
    value, gradient, laplacian = log_ratio_derivatives(network, X, sigma, time=lambda sigma: sigma)
    pairs = ((value, mixtures.log_density), (gradient, mixtures.score), (laplacian, mixtures.laplacian))
    for found, closed in pairs:
        exact = closed(REAL, X, full(sigma, X)) - closed(MODEL, X, full(sigma, X))
        torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-5)  # y is float32
    _, guided = log_ratio_and_gradient(
        network, X[:, :, None, None], full(sigma, X), None, time=lambda sigma: sigma
    )
    torch.testing.assert_close(guided[:, :, 0, 0], gradient, rtol=1e-12, atol=0.0)  # the change by guidance


def test_the_energy_distance_of_samples_agrees_with_that_of_two_large_sets():
    samples, data = (
        mixtures.points(MODEL, 1, torch.arange(800)),
        mixtures.points(REAL, 2, torch.arange(1_600)),
    )
    found = energy_distance(samples.numpy(), REAL.means, REAL.stds, REAL.weights)

    def mean_distance(a: Tensor, b: Tensor) -> float:
        return float(torch.cdist(a, b).sum()) / (len(a) * (len(b) - (a is b)))

    brute = 2 * mean_distance(samples, data) - mean_distance(samples, samples) - mean_distance(data, data)
    # The closed form has no second sample set. The error of that set is the mean over it of 2 (E|X - y| - E|Y
    # - y|): this function of y lies within 2 |E X - E Y| + 0.5 of 0, below 2 here, so 5 * 2 / sqrt(1600) is a
    # bound.
    assert found == pytest.approx(brute, abs=0.05)
    own = mixtures.points(REAL, 3, torch.arange(800)).numpy()
    assert abs(energy_distance(own, REAL.means, REAL.stds, REAL.weights)) < 0.02 < found


def test_the_energy_distance_of_one_point_pair_is_the_closed_form():
    # X in {(+-1, 0)}, Y ~ N(0, 1): E|X - Y| is Rice's mean with nu = 1, E|Y - Y'| = sqrt(pi), E|X - X'| = 2.
    density = lambda r: r * r * math.exp(-(r * r + 1) / 2) * np.i0(r)  # noqa: E731
    rice, _ = quad(density, 0, 15)
    found = energy_distance(np.array([[-1.0, 0.0], [1.0, 0.0]]), [[0.0, 0.0]], [1.0], [1.0])
    assert found == pytest.approx(2 * rice - 2 - math.sqrt(math.pi), rel=1e-8)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            dict(means=((0.0, 0.0),), stds=(1.0, 1.0), weights=(1.0,)),
            "equal numbers of means, stds and weights",
        ),
        (
            dict(means=((0.0, 0.0), (1.0,)), stds=(1.0, 1.0), weights=(0.5, 0.5)),
            "the same number of coordinates",
        ),
        (dict(means=((0.0, 0.0),), stds=(1.0,), weights=(0.9,)), "sum to 1, found a sum of 0.9"),
        (dict(means=((0.0, 0.0),), stds=(0.0,), weights=(1.0,)), "stds"),
    ],
)
def test_a_mixture_that_is_none_is_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        GaussianMixture(**fields)

"""The loss of a log-ratio's gradient: its definition, its minimum, and its own gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.distributed as dist
from networks.test_second_derivatives import of_pixels, on_features, randomised
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dgflow.diffusion import mixtures
from dgflow.diffusion.gain import Moments
from dgflow.diffusion.gradient_matching import gradient_loss, logits_and_gradients
from dgflow.diffusion.losses import discriminator_loss
from dgflow.diffusion.mixture_specs import GaussianMixture

DATA = GaussianMixture(means=((-1.0,), (1.5,)), stds=(0.6, 0.4), weights=(0.4, 0.6))
MODEL = GaussianMixture(means=((-0.7,), (1.6,)), stds=(0.7, 0.6), weights=(0.7, 0.3))
NODES = 96


def noisy_images(mixture: GaussianMixture, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns points x0 [N, 1] and their noisy x, with the weights [N] of a quadrature over both."""
    x0, shares = mixtures.nodes(mixture, 0.0, NODES)
    roots, weights = np.polynomial.hermite_e.hermegauss(NODES)
    z, own = torch.from_numpy(roots), torch.from_numpy(weights / weights.sum())
    x = x0[:, None] + sigma * z[:, None]
    return x0[:, None].expand_as(x).flatten(0, 1), x.flatten(0, 1), (shares[:, None] * own).flatten()


def full(sigma: float, like: Tensor) -> Tensor:
    return torch.full((len(like),), sigma, dtype=torch.float64)


def expected_gradient_loss(
    log_ratio: Callable[[Tensor], Tensor], data: GaussianMixture, model: GaussianMixture, sigma: float
) -> Tensor:
    """Returns the mean over images and noise of the loss of l(x)."""
    x0, x, weights = noisy_images(data, sigma)
    level, scale = full(sigma, x), math.hypot(1.0, sigma)
    _, gradient = logits_and_gradients(lambda y: log_ratio(y * scale), x / scale, level)
    items = Moments.of(x0 - mixtures.denoised(model, x, level), gradient, level)
    return (weights * gradient_loss(items)).sum()


def expected_bce(log_ratio: Callable[[Tensor], Tensor], sigma: float) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for mixture, is_real in ((DATA, True), (MODEL, False)):
        x, weights = mixtures.nodes(mixture, sigma, NODES)
        loss = discriminator_loss(log_ratio(x), torch.full((len(x),), is_real))
        total = total + (weights * loss).sum()
    return total


@pytest.mark.parametrize("sigma", [0.2, 1.0, 5.0])
def test_cross_entropy_and_the_loss_of_the_gradient_are_both_least_at_the_exact_log_ratio(sigma):
    """Tested in every direction of three functions; any mixture of the two losses has the same minimum."""
    parts = (torch.sin, torch.square, torch.tanh)
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def log_ratio(x: Tensor) -> Tensor:
        exact = mixtures.log_ratio(DATA, MODEL, x, full(sigma, x))
        return exact + sum(
            weight * part(x / (1 + sigma))[:, 0] for weight, part in zip(theta, parts, strict=True)
        )

    of_gradient = expected_gradient_loss(log_ratio, DATA, MODEL, sigma)
    for loss in (of_gradient, expected_bce(log_ratio, sigma)):
        (slope,) = torch.autograd.grad(loss, theta, create_graph=True)
        assert float(slope.detach().abs().max()) < 1e-5  # the error of a quadrature
        hessian = torch.stack([torch.autograd.grad(each, theta, retain_graph=True)[0] for each in slope])
        assert float(torch.linalg.eigvalsh(hessian).min()) > 1e-4
    # The value: -sigma^2 E|score error|^2, Gain per unit of log sigma, by quadrature over x alone.
    x, weights = mixtures.nodes(DATA, sigma, NODES)
    level = full(sigma, x)
    error = mixtures.score(DATA, x, level) - mixtures.score(MODEL, x, level)
    assert float(of_gradient.detach()) == pytest.approx(
        -(sigma**2) * float((weights * error.square().sum(1)).sum()), rel=1e-3
    )


def test_the_minimiser_among_parabolas_has_the_error_of_the_score_of_two_gaussians_as_its_gradient():
    """N(0, a^2) and N(m, b^2): -x / (a^2 + sigma^2) + (x - m) / (b^2 + sigma^2), by one Newton step."""
    a, b, m, sigma = 0.8, 1.3, 0.7, 0.5
    data = GaussianMixture(means=((0.0,),), stds=(a,), weights=(1.0,))
    model = GaussianMixture(means=((m,),), stds=(b,), weights=(1.0,))
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    loss = expected_gradient_loss(
        lambda x: (theta[0] * x + theta[1] * x.square() / 2)[:, 0], data, model, sigma
    )
    (slope,) = torch.autograd.grad(loss, theta, create_graph=True)
    hessian = torch.stack([torch.autograd.grad(each, theta, retain_graph=True)[0] for each in slope])
    found = -torch.linalg.solve(hessian, slope.detach())
    a2, b2 = a**2 + sigma**2, b**2 + sigma**2
    assert found.tolist() == pytest.approx([-m / b2, 1 / b2 - 1 / a2], rel=1e-9)


def test_the_loss_is_the_weighted_denoising_error_less_that_of_the_network_alone():
    generator = torch.Generator().manual_seed(0)
    x0, denoised, gradient = torch.randn(3, 4, 2, 3, 3, dtype=torch.float64, generator=generator)
    sigma = torch.tensor([0.01, 0.4, 3.0, 80.0], dtype=torch.float64)
    guided = denoised + sigma.square()[:, None, None, None] * gradient
    fall = ((guided - x0).square() - (denoised - x0).square()).flatten(1).sum(1)
    items = Moments.of(x0 - denoised, gradient, sigma)
    torch.testing.assert_close(gradient_loss(items), fall / sigma.square(), rtol=1e-9, atol=1e-9)


def a_loss(network: nn.Module, seed: int = 0) -> Tensor:
    """Returns the loss of two made-up noisy images of 8 pixels per side."""
    generator = torch.Generator().manual_seed(seed)
    y, residual = torch.randn(2, 2, 3, 8, 8, generator=generator)
    sigma = torch.tensor([0.7, 3.0], dtype=torch.float64)
    logit, gradient = logits_and_gradients(lambda y: network(y, torch.tensor([0.2, 0.5])), y, sigma)
    return (gradient_loss(Moments.of(residual, gradient, sigma)) + logit.double()).sum()


@pytest.mark.parametrize("build", [on_features, of_pixels])
def test_its_gradient_in_the_weights_is_that_of_finite_differences(build):
    """Covers frozen features with attention too; along its own direction, within float32's precision."""
    network = randomised(build())
    head = network.head.requires_grad_(True)
    loss = a_loss(network)
    loss.backward()
    assert all(parameter.grad is None for parameter in (network.features or nn.Identity()).parameters())
    slopes = [parameter.grad for parameter in head.parameters()]
    size = math.sqrt(sum(float(slope.square().sum()) for slope in slopes if slope is not None))
    losses = []
    for step in (2e-3, -4e-3):
        with torch.no_grad():
            for parameter, slope in zip(head.parameters(), slopes, strict=True):
                if slope is not None:
                    parameter += step * slope / size
            losses.append(float(a_loss(network)))
    assert (losses[0] - losses[1]) / 4e-3 == pytest.approx(size, rel=2e-2)


def test_nothing_is_kept_for_a_second_derivative_where_gradients_are_off():
    network = randomised(of_pixels()).requires_grad_(True)
    with torch.no_grad():
        y = torch.randn(2, 3, 8, 8)
        logit, gradient = logits_and_gradients(
            lambda y: network(y, torch.tensor([0.2])), y, torch.ones(2, dtype=torch.float64)
        )
    assert not logit.requires_grad and not gradient.requires_grad


def test_workers_that_average_their_gradients_average_those_of_second_derivatives(tmp_path):
    network = randomised(on_features())
    network.head.requires_grad_(True)
    a_loss(network).backward()
    plain = [parameter.grad for parameter in network.head.parameters()]
    network.zero_grad()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'init'}", rank=0, world_size=1)
    try:
        a_loss(DistributedDataParallel(network)).backward()
    finally:
        dist.destroy_process_group()
    for parameter, expected in zip(network.head.parameters(), plain, strict=True):
        assert (parameter.grad is None) == (expected is None)
        if expected is not None:
            torch.testing.assert_close(parameter.grad, expected)

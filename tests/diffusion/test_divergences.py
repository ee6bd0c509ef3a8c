"""Score matching weighted by a ratio: the divergence that it lowers, and its minimum, by quadrature against
closed forms of two Gaussians."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from dgflow import ClosedForm, GaussianMixture, MixtureRatio, RatioWeighting
from dgflow.diffusion.divergences import divergence_weight
from dgflow.diffusion.losses import edm_loss
from dgflow.steps.training.ratio_weights import RatioWeights

DIVERGENCES = ("chi-squared", "hellinger", "jensen-shannon", "kl", "reverse-kl")


class Normal(NamedTuple):
    """A Gaussian on the line, and its diffusion by noise of level sigma."""

    mean: float
    std: float

    def at(self, sigma: float) -> Normal:
        return Normal(self.mean, math.hypot(self.std, sigma))

    def log_density(self, x: Tensor, sigma: Tensor) -> Tensor:
        variance = self.std**2 + sigma.square()
        return -0.5 * ((x - self.mean).square() / variance + torch.log(2 * math.pi * variance))

    def denoiser(self, x: Tensor, sigma: Tensor, _: Tensor | None = None) -> Tensor:
        share = self.std**2 / (self.std**2 + sigma.square().view(-1, 1, 1, 1))
        return self.mean + share * (x - self.mean)


DATA, MODEL = Normal(0.0, 1.0), Normal(0.6, 1.2)
NODES, WEIGHTS = (torch.from_numpy(each) for each in np.polynomial.hermite_e.hermegauss(48))
WEIGHTS = WEIGHTS / WEIGHTS.sum()
CLEAN, NOISE = (each.reshape(-1, 1, 1, 1) for each in torch.meshgrid(NODES, NODES, indexing="ij"))
BOTH = (WEIGHTS[:, None] * WEIGHTS).flatten()


def log_ratio(x: Tensor, sigma: Tensor) -> Tensor:
    flat = x.flatten()
    return DATA.log_density(flat, sigma) - MODEL.log_density(flat, sigma)


def weighted(divergence, denoiser, of: Normal, sigma: float, ratio=log_ratio) -> Tensor:
    """Returns the mean of the weighted loss over clean images of a Gaussian and their noise."""
    images, sigma_B = of.mean + of.std * CLEAN, torch.full((len(CLEAN),), sigma, dtype=torch.float64)
    weight = divergence_weight(ratio(images + sigma * NOISE, sigma_B), divergence, 1e9)
    return (BOTH * weight * edm_loss(denoiser, images, sigma_B, NOISE)).sum()


def divergence_of(name: str, p: Normal, q: Normal) -> float:
    """Returns D_f(p | q) with f''(1) = 1, in closed form."""
    (a, s), (b, t) = p, q
    if name == "kl":
        return math.log(t / s) + (s**2 + (a - b) ** 2) / (2 * t**2) - 0.5
    if name == "reverse-kl":
        return divergence_of("kl", q, p)
    if name == "chi-squared":  # the integral of p^2 / q is 1 + 2 D
        width = 2 * t**2 - s**2
        return 0.5 * (t**2 / (s * math.sqrt(width)) * math.exp((a - b) ** 2 / width) - 1)
    if name == "hellinger":
        sum_ = s**2 + t**2
        return 4 * (1 - math.sqrt(2 * s * t / sum_) * math.exp(-((a - b) ** 2) / (4 * sum_)))
    x = torch.linspace(-12 * t, 12 * t, 20_001, dtype=torch.float64)
    log_p, log_q = (each.log_density(x, torch.zeros(1, dtype=torch.float64)) for each in (p, q))
    middle = torch.logaddexp(log_p, log_q) - math.log(2)
    return 2 * float(torch.trapezoid(log_p.exp() * (log_p - middle) + log_q.exp() * (log_q - middle), x))


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_excess_of_the_weighted_loss_over_all_levels_is_the_divergence(name):
    """EDM's loss is lambda(sigma) |D - x0|^2, and |score - score'|^2 = |D - D'|^2 / sigma^4."""
    low, high = 0.02, 20.0
    nodes, weights = np.polynomial.legendre.leggauss(32)
    width = math.log(high / low) / 2
    integral = 0.0
    for node, weight in zip(nodes, weights, strict=True):
        sigma = math.sqrt(low * high) * math.exp(width * node)
        excess = weighted(name, MODEL.denoiser, DATA, sigma) - weighted(name, DATA.denoiser, DATA, sigma)
        edms = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
        integral += width * weight * sigma**2 * float(excess) / edms / sigma**4  # d sigma = sigma d log sigma
    ends = (divergence_of(name, DATA.at(sigma), MODEL.at(sigma)) for sigma in (low, high))
    assert integral == pytest.approx(next(ends) - next(ends), rel=1e-4)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_minimum_on_real_images_is_the_datas_score_even_with_a_wrong_ratio(name):
    slopes = []
    for denoiser in (DATA.denoiser, MODEL.denoiser):
        moved = torch.zeros((), dtype=torch.float64, requires_grad=True)

        def other(x, sigma, _, denoiser=denoiser, moved=moved):
            return denoiser(x, sigma) + moved * torch.cos(x)  # any direction

        loss = weighted(name, other, DATA, 0.7, ratio=lambda x, sigma: 0.5 * log_ratio(x, sigma) - 0.3)
        slopes.append(float(torch.autograd.grad(loss, moved)[0]))
    assert abs(slopes[0]) < 1e-9 < 1e-2 < abs(slopes[1])


def test_on_samples_of_the_model_the_minimum_would_be_the_models_own_score():
    moved = torch.zeros((), dtype=torch.float64, requires_grad=True)
    loss = weighted(
        "chi-squared", lambda x, sigma, _: MODEL.denoiser(x, sigma) + moved * torch.cos(x), MODEL, 0.7
    )
    assert abs(float(torch.autograd.grad(loss, moved)[0])) < 1e-9


def test_weights_are_one_at_a_ratio_of_one_bounded_and_those_of_the_definition():
    logits = torch.tensor([-200.0, -1.0, 0.0, 1.0, 200.0])
    ratio = math.e
    expected = {
        "chi-squared": [0.1, 1 / ratio, 1, ratio, 10],
        "hellinger": [10, ratio**0.5, 1, ratio**-0.5, 0.1],
        "jensen-shannon": [2, 2 / (1 + 1 / ratio), 1, 2 / (1 + ratio), 0.1],
        "kl": [1, 1, 1, 1, 1],
        "reverse-kl": [10, ratio, 1, 1 / ratio, 0.1],
    }
    for name in DIVERGENCES:
        found = divergence_weight(logits, name, 10.0)
        torch.testing.assert_close(found, torch.tensor(expected[name], dtype=torch.float64))
    assert torch.equal(divergence_weight(logits, "kl", 10.0), torch.ones(5, dtype=torch.float64))


def test_the_discriminator_is_asked_about_the_noisy_image_within_the_window_alone():
    """With the plane's exact ratio, chi-squared weights are the ratio of the noisy point's densities."""
    data = GaussianMixture(means=((-1.5, 0.0), (1.5, 0.0)), stds=(0.5, 0.5), weights=(0.5, 0.5))
    model = GaussianMixture(means=((0.0, 0.0),), stds=(1.3,), weights=(1.0,))
    exact = MixtureRatio(real=data, model=model)
    weighting = RatioWeighting(
        discriminator=ClosedForm(network=exact).weights(), largest=1e6, tau_min=0.1, tau_max=0.5
    )
    network = exact.build(**exact.data_shape._asdict())
    weights = RatioWeights(weighting, network, exact.time_map(), conditional=False)
    x = torch.tensor([[-1.0, 0.5], [0.2, -0.3], [2.0, 1.0], [1.0, 0.0]]).reshape(4, 2, 1, 1)
    sigma = torch.tensor([0.5, 1.0, 0.1, 50.0])  # tau 0.15, 0.26, 0.03 and 0.88
    variance = 0.25 + sigma**2
    points = x.reshape(4, 2)
    modes = [((points - torch.tensor(mean)) ** 2).sum(1) for mean in data.means]
    real = sum(0.5 * torch.exp(-square / (2 * variance)) / variance for square in modes)
    wide = 1.69 + sigma**2
    fake = torch.exp(-(points**2).sum(1) / (2 * wide)) / wide
    expected = torch.where(torch.tensor([True, True, False, False]), real / fake, 1.0)
    found = weights.of(x, sigma, torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert found.dtype == torch.float32 and not found.requires_grad

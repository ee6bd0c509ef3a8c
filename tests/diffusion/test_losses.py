"""Losses against closed forms, and their minimisers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dgflow.diffusion import losses, noise, times

INDEX = torch.arange(100_000)


def test_the_edm_loss_of_gaussian_data_is_1() -> None:
    """For data N(0, sigma_data^2) the best denoiser leaves sigma^2 sigma_data^2 / (sigma^2 + sigma_data^2),
    the inverse of the weight."""
    images = 0.5 * noise.standard_normal(1, INDEX[:500], (3, 8, 8), step=0)
    sigma = losses.lognormal_sigma(noise.standard_normal(1, INDEX[:500], (), step=0, draw=noise.LEVEL))
    z = noise.standard_normal(1, INDEX[:500], (3, 8, 8), step=0, draw=noise.NOISE)

    def best(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        return x * times.per_sample(0.25 / (sigma**2 + 0.25), x)

    loss = losses.edm_loss(best, images, sigma, z)
    assert loss.shape == (500,) and float(loss.mean()) == pytest.approx(1.0, abs=0.02)


def test_the_edm_loss_passes_noisy_images_levels_and_labels_to_the_denoiser() -> None:
    images, z, sigma, labels = (
        torch.ones(2, 1, 2, 2),
        torch.full((2, 1, 2, 2), 2.0),
        torch.tensor([0.5, 3.0]),
        torch.tensor([4, 7]),
    )

    def check(x: Tensor, level: Tensor, class_labels: Tensor | None) -> Tensor:
        assert x[:, 0, 0, 0].tolist() == [2.0, 7.0] and level is sigma and class_labels is labels
        return x

    # |x - x0|^2 = (2 sigma)^2, times (sigma^2 + 0.25) / (0.5 sigma)^2.
    assert losses.edm_loss(check, images, sigma, z, labels).tolist() == pytest.approx([16 * 0.5, 16 * 9.25])


def test_training_levels_are_lognormal() -> None:
    sigma = losses.lognormal_sigma(torch.tensor([-1.0, 0.0, 2.0]))
    assert sigma.tolist() == pytest.approx([math.exp(-2.4), math.exp(-1.2), math.exp(1.2)])


@pytest.mark.parametrize("kind", ["bce", "lsif", "ukl"])
def test_each_discriminator_loss_is_least_at_the_log_of_the_density_ratio(kind) -> None:
    """If real is 3 times as dense as fake, d/dl of 3 * loss(real) + 1 * loss(fake) is 0 at l = log 3, and its
    slope is positive there."""
    logit = torch.tensor(
        [math.log(3) - 0.01, math.log(3), math.log(3) + 0.01], dtype=torch.float64, requires_grad=True
    )
    real, fake = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)
    total = 3 * losses.discriminator_loss(logit, real, kind) + losses.discriminator_loss(logit, fake, kind)
    (slope,) = torch.autograd.grad(total.sum(), logit)
    assert float(slope[1]) == pytest.approx(0, abs=1e-12) and float(slope[0]) < 0 < float(slope[2])


@pytest.mark.parametrize(
    ("kind", "real", "fake"),
    [
        ("bce", math.log1p(math.exp(-0.7)), math.log1p(math.exp(0.7))),
        ("lsif", -math.exp(0.7), 0.5 * math.exp(1.4)),
        ("ukl", -0.7, math.exp(0.7)),
    ],
)
def test_each_discriminator_loss_has_its_value(kind, real: float, fake: float) -> None:
    found = losses.discriminator_loss(
        torch.tensor([0.7, 0.7], dtype=torch.float64), torch.tensor([1, 0]), kind
    )
    assert found.tolist() == pytest.approx([real, fake], rel=1e-14)


@pytest.mark.parametrize("kind", ["bce", "lsif", "ukl"])
def test_losses_of_extreme_logits_are_finite_and_pull_back(kind) -> None:
    logit = torch.tensor([500.0, 500.0, -500.0, -500.0], requires_grad=True)
    loss = losses.discriminator_loss(logit, torch.tensor([1, 0, 1, 0]), kind)
    (slope,) = torch.autograd.grad(loss.sum(), logit)
    assert loss.isfinite().all() and slope.isfinite().all() and slope[1] > 0


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="bce"):
        losses.discriminator_loss(torch.zeros(1), torch.ones(1), "hinge")  # pyright: ignore[reportArgumentType]


def test_the_classifier_loss_of_uniform_logits_is_the_log_of_the_number_of_classes() -> None:
    assert losses.classifier_loss(torch.zeros(3, 10), torch.tensor([0, 5, 9])).tolist() == pytest.approx(
        [math.log(10)] * 3
    )


def test_perturbed_samples_keep_unit_variance() -> None:
    x = noise.standard_normal(1, INDEX[:2000], (10,), step=0)
    z = noise.standard_normal(1, INDEX[:2000], (10,), step=0, draw=noise.NOISE)
    tau = times.importance_tau(noise.uniform(1, INDEX[:2000], (), step=0, draw=noise.LEVEL))
    assert float(losses.perturb(x, tau, z).var()) == pytest.approx(1.0, abs=0.03)

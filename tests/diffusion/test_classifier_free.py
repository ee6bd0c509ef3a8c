"""Classifier-free guidance: network calls, the formula, and mixtures with known conditional densities."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusion.mixtures import REAL, ClassifierFreeDenoiser, Labelled
from torch import Tensor

from dgflow.diffusion import noise
from dgflow.diffusion.classifier_free import ClassifierFreePredictor
from dgflow.diffusion.classifier_guidance import ClassifierTerm
from dgflow.diffusion.denoisers import VPDenoiser
from dgflow.diffusion.guidance_settings import ClassifierFree, ClassifierSettings, Switch
from dgflow.diffusion.heun import edm_sigmas, heun
from dgflow.diffusion.times import sigma_from_tau, tau_from_sigma

LABELS, NULL = torch.tensor([0, 1, 2]), 5
TIME = torch.tensor([100.0, 200.0, 201.0])
Y = noise.standard_normal(8, torch.arange(3), (4, 2, 2), step=0).float()


class Network:
    """epsilon = (label + 1) * y, v = label; and a log of its calls."""

    def __init__(self, learns_v: bool = True) -> None:
        self.learns_v = learns_v
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, y: Tensor, time: Tensor, class_labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        assert class_labels is not None
        self.calls.append((y, time, class_labels))
        label = class_labels.reshape(-1, 1, 1, 1).to(y.dtype)
        return (label + 1) * y, label.expand_as(y) if self.learns_v else None


def factor(scale: Tensor | float) -> Tensor:
    """Returns the factor of y, in guided channels: null + scale * (conditional - null)."""
    return (NULL + 1) + scale * (LABELS - NULL)


def test_conditional_and_null_rows_are_asked_for_in_one_call() -> None:
    net = Network()
    ClassifierFreePredictor(net, NULL, ClassifierFree(scale=1.5))(Y, TIME, LABELS)
    ((y, time, labels),) = net.calls
    assert torch.equal(y, torch.cat([Y, Y])) and torch.equal(time, torch.cat([TIME, TIME]))
    assert labels.tolist() == [0, 1, 2, 5, 5, 5] and labels.dtype == torch.int64


@pytest.mark.parametrize("channels", [1, 3, None])
def test_the_first_channels_are_guided_and_the_rest_and_v_stay_conditional(channels: int | None) -> None:
    epsilon, v = ClassifierFreePredictor(Network(), NULL, ClassifierFree(scale=1.5, channels=channels))(
        Y, TIME, LABELS
    )
    expected = (LABELS + 1).reshape(3, 1, 1, 1) * Y
    expected[:, :channels] = factor(1.5).reshape(3, 1, 1, 1) * Y[:, :channels]
    torch.testing.assert_close(epsilon, expected, rtol=1e-6, atol=1e-6)
    assert v is not None and torch.equal(v[:, 0, 0, 0], LABELS.float())


def test_three_channels_are_the_default_as_published() -> None:
    epsilon, _ = ClassifierFreePredictor(Network(), NULL, ClassifierFree(scale=1.5))(Y, TIME, LABELS)
    assert torch.equal(
        epsilon,
        ClassifierFreePredictor(Network(), NULL, ClassifierFree(scale=1.5, channels=3))(Y, TIME, LABELS)[0],
    )


def test_a_network_without_v_has_none_when_guided() -> None:
    assert (
        ClassifierFreePredictor(Network(learns_v=False), NULL, ClassifierFree(scale=1.5))(Y, TIME, LABELS)[1]
        is None
    )


def test_the_scale_switches_in_the_predictor_s_own_time() -> None:
    epsilon, _ = ClassifierFreePredictor(
        Network(), NULL, ClassifierFree(scale=Switch(above=1.25, below=3.0, timestep=200), channels=None)
    )(Y, TIME, LABELS)
    expected = factor(torch.tensor([3.0, 3.0, 1.25])).reshape(3, 1, 1, 1) * Y
    torch.testing.assert_close(epsilon, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, Switch(above=1.0, below=1.0, timestep=200)])
def test_at_scale_1_nothing_is_doubled(scale: float | Switch) -> None:
    net = Network()
    epsilon, v = ClassifierFreePredictor(net, NULL, ClassifierFree(scale=scale))(Y, TIME, LABELS)
    assert (
        len(net.calls[0][0]) == 3
        and torch.equal(epsilon, (LABELS + 1).reshape(3, 1, 1, 1) * Y)
        and v is not None
        and len(v) == 3
    )


def test_scale_0_is_the_unconditional_network() -> None:
    epsilon, _ = ClassifierFreePredictor(Network(), NULL, ClassifierFree(scale=0.0, channels=None))(
        Y, TIME, LABELS
    )
    assert torch.equal(epsilon, (NULL + 1) * Y)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_difference_is_amplified_in_float32_at_least(dtype: torch.dtype) -> None:
    epsilon, _ = ClassifierFreePredictor(
        Network(), NULL, ClassifierFree(scale=Switch(above=1.5, below=2.0, timestep=150))
    )(Y.to(dtype), TIME, LABELS)
    assert epsilon.dtype == torch.promote_types(dtype, torch.float32)


@pytest.mark.parametrize("labels", [None, torch.eye(3)], ids=["none", "rows"])
def test_labels_that_do_not_fit_the_null_label_are_refused(labels: Tensor | None) -> None:
    with pytest.raises(ValueError, match="class_labels"):
        ClassifierFreePredictor(Network(), NULL, ClassifierFree(scale=1.5))(Y, TIME, labels)


@pytest.mark.parametrize(
    "options",
    [
        {"scale": math.nan},
        {"scale": {"above": 1.0, "below": math.inf, "timestep": 499}},
        {"scale": 1.5, "channels": 0},
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"finite number|channels"):
        ClassifierFree(**options)


CLASSES = Labelled(REAL)
INDEX = torch.arange(400)
LATENTS = noise.standard_normal(9, INDEX, (2,), step=0, draw=noise.LATENT)
SIGMAS = edm_sigmas(18)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_a_scale_is_the_weight_of_an_exact_classifier_on_the_unconditional_model(scale: float) -> None:
    """null + s * (conditional - null) is grad log p(x) + s * grad log p(class | x)."""
    labels = INDEX % 2
    guided = heun(ClassifierFreeDenoiser(CLASSES.denoiser, 2, scale), LATENTS, SIGMAS, class_labels=labels).x
    wanted = heun(
        REAL.denoiser,
        LATENTS,
        SIGMAS,
        class_labels=labels,
        guidance=[ClassifierTerm(CLASSES.logits, ClassifierSettings(weight=scale))],
    ).x
    torch.testing.assert_close(guided, wanted, rtol=0, atol=2e-4)
    if scale == 1.0:
        torch.testing.assert_close(
            guided, heun(CLASSES.denoiser, LATENTS, SIGMAS, class_labels=labels).x, rtol=0, atol=0
        )


def test_noise_predictor_and_denoiser_are_guided_alike() -> None:
    def predictor(y: Tensor, time: Tensor, class_labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        sigma = sigma_from_tau(time.double() / 1000)
        x = y.double() * (1 + sigma**2).sqrt()[:, None]
        return (x - CLASSES.denoiser(x, sigma, class_labels)) / sigma[:, None], None

    labels, switch = INDEX % 2, Switch(above=1.5, below=3.0, timestep=399)
    inside = VPDenoiser(
        ClassifierFreePredictor(predictor, 2, ClassifierFree(scale=switch, channels=None)),
        lambda sigma: 1000 * tau_from_sigma(sigma),
    )
    outside = ClassifierFreeDenoiser(CLASSES.denoiser, 2, switch)
    found, wanted = (heun(denoiser, LATENTS, SIGMAS, class_labels=labels).x for denoiser in (inside, outside))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    switch = Switch(above=1.5, below=3.0, timestep=150)
    predictor = ClassifierFreePredictor(Network(), NULL, ClassifierFree(scale=switch))
    whole, _ = predictor(Y, TIME, LABELS)
    for part in (slice(0, 1), slice(1, 3)):
        some, _ = predictor(Y[part], TIME[part], LABELS[part])
        torch.testing.assert_close(some, whole[part], rtol=0, atol=1e-12)

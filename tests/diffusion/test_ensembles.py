"""Combined log-ratios against their closed forms in float64, and ensembles in every sampler."""

import math

import pytest
import torch
from diffusion import test_exact_guidance
from diffusion.mixtures import MODEL, REAL, Mixture, exact_log_ratio
from diffusion.test_exact_guidance import SAMPLERS
from torch import Tensor

from dgflow.diffusion.discriminator_guidance import PUBLISHED_CLIP, DiscriminatorTerm, log_ratio_and_gradient
from dgflow.diffusion.ensembles import EnsembleLogRatio, combined
from dgflow.diffusion.guidance import Point
from dgflow.diffusion.guidance_settings import Boost, Combine, DiscriminatorSettings
from dgflow.diffusion.times import sigma_from_tau

COMBINE: tuple[Combine, ...] = ("logits", "probabilities")
LOGITS = torch.tensor(
    [
        [0.3, -2.0, 400.0, -400.0, 300.0, 90.0, 0.0],
        [-1.1, -2.5, 380.0, -390.0, -300.0, -80.0, 0.0],
        [2.0, 7.0, 500.0, -700.0, 10.0, 88.0, 0.0],
    ]
)


def value_and_gradient(logits_KB: Tensor, combine: Combine) -> tuple[Tensor, Tensor]:
    logits_KB = logits_KB.clone().requires_grad_()
    value = combined(logits_KB, combine)
    (gradient,) = torch.autograd.grad(value.sum(), logits_KB)
    return value.detach(), gradient


def mean_probability(column: list[float]) -> tuple[float, list[float]]:
    """Returns the logit of the mean of sigmoids, with its gradient, by sums of positive terms in Python's
    floats: log of sum_k 1 / (1 + e^-l) over sum_k 1 / (1 + e^l), and s_k = p_k (1 - p_k) / K over m (1 - m).
    """
    real = [1 / (1 + math.exp(-logit)) for logit in column]
    fake = [1 / (1 + math.exp(logit)) for logit in column]
    m, n = sum(real), sum(fake)
    return math.log(m) - math.log(n), [p * q * (1 / m + 1 / n) for p, q in zip(real, fake, strict=True)]


def test_the_log_ratio_of_the_mean_probability_is_the_closed_form_for_logits_of_hundreds():
    value, gradient = value_and_gradient(LOGITS, "probabilities")
    assert value.dtype == torch.float32
    for number, column in enumerate(LOGITS.double().T.tolist()):
        expected, slope = mean_probability(column)
        assert float(value[number]) == pytest.approx(expected, rel=1e-6, abs=1e-6)
        assert gradient[:, number].tolist() == pytest.approx(slope, rel=2e-6, abs=1e-7)


def test_the_mean_log_ratio_is_a_product_of_experts():
    value, gradient = value_and_gradient(LOGITS, "logits")
    torch.testing.assert_close(value, LOGITS.double().mean(0).float(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, torch.full_like(LOGITS, 1 / 3))


@pytest.mark.parametrize("combine", COMBINE)
def test_one_member_is_given_to_the_last_bit(combine):
    value, gradient = value_and_gradient(LOGITS[:1], combine)
    assert (value == LOGITS[0]).all() and (gradient == 1.0).all()


@pytest.mark.parametrize("combine", COMBINE)
def test_the_members_order_does_not_matter_and_equal_members_are_as_one(combine):
    value, _ = value_and_gradient(LOGITS, combine)
    other, _ = value_and_gradient(LOGITS.flip(0), combine)
    torch.testing.assert_close(value, other, rtol=1e-6, atol=1e-6)
    same, gradient = value_and_gradient(LOGITS[:1].expand(4, -1), combine)
    torch.testing.assert_close(same, LOGITS[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 0.25))


def test_logits_of_half_precision_are_combined_in_float32():
    value, _ = value_and_gradient(LOGITS.bfloat16(), "probabilities")
    assert value.dtype == torch.float32 and value.isfinite().all()


# Two discriminators with different errors: each is the exact one of another model.
OTHERS = (
    Mixture((0.5, 0.5), ((-1.1, 0.4), (0.9, 0.1)), 0.35),
    Mixture((0.7, 0.3), ((-1.1, 0.4), (0.9, 0.1)), 0.4),
)


def of_others(y: Tensor, tau: Tensor, class_labels: Tensor | None = None) -> Tensor:
    """Returns exact log-ratios [2, B] of REAL to each of OTHERS."""
    sigma = sigma_from_tau(tau.double())
    x = y.double() * (1 + sigma**2).sqrt()[:, None]
    return torch.stack([REAL.log_density(x, sigma) - other.log_density(x, sigma) for other in OTHERS])


def points(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 2, dtype=torch.float64, generator=generator)
    return x, torch.linspace(0.1, 5.0, count, dtype=torch.float64)


@pytest.mark.parametrize("combine", COMBINE)
def test_the_gradient_is_that_of_finite_differences_of_the_closed_form(combine):
    x, sigma = points(16)

    def closed(x: Tensor) -> Tensor:
        logits = torch.stack([REAL.log_density(x, sigma) - other.log_density(x, sigma) for other in OTHERS])
        return logits.mean(0) if combine == "logits" else torch.logit(logits.sigmoid().mean(0))

    value, gradient = log_ratio_and_gradient(EnsembleLogRatio(of_others, combine), x, sigma, None)
    torch.testing.assert_close(value, closed(x), rtol=1e-5, atol=1e-5)
    step = 1e-5
    for axis in range(2):
        offset = torch.zeros(2, dtype=torch.float64)
        offset[axis] = step
        slope = (closed(x + offset) - closed(x - offset)) / (2 * step)
        torch.testing.assert_close(gradient[:, axis], slope, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_takes_an_ensemble_of_equal_members_as_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path to the data is thereby covered too, as in `test_exact_guidance`, whose latents are reduced to
    48 here."""
    monkeypatch.setattr(test_exact_guidance, "LATENTS", test_exact_guidance.LATENTS[:48])
    monkeypatch.setattr(test_exact_guidance, "INDEX", test_exact_guidance.INDEX[:48])
    settings = DiscriminatorSettings(weight=1.0, second_order_weight=1.0, tau_min=0.0)
    one = SAMPLERS[name](MODEL.denoiser, [DiscriminatorTerm(exact_log_ratio, settings)])
    ensemble = EnsembleLogRatio(lambda y, tau, labels: exact_log_ratio(y, tau).expand(3, -1), "probabilities")
    several = SAMPLERS[name](MODEL.denoiser, [DiscriminatorTerm(ensemble, settings)])
    torch.testing.assert_close(several, one, rtol=0, atol=2e-5)


def point(count: int, order: int = 1) -> Point:
    x, sigma = points(count)
    return Point(x, sigma, None, 0, order, (0.1, 5.0))


@pytest.mark.parametrize("combine", COMBINE)
def test_the_boost_acts_where_the_combined_log_ratio_says_fake(combine):
    ensemble = EnsembleLogRatio(of_others, combine)
    plain, log_ratio = DiscriminatorTerm(ensemble, DiscriminatorSettings(tau_min=0.0))(point(16))
    boosted, same = DiscriminatorTerm(ensemble, DiscriminatorSettings(tau_min=0.0, boost=Boost()))(point(16))
    assert plain is not None and boosted is not None and log_ratio is not None
    assert (log_ratio == same).all() and 0 < int((log_ratio < 0).sum()) < 16
    assert (boosted == torch.where((log_ratio < 0)[:, None], 2 * plain, plain)).all()


@pytest.mark.parametrize("combine", COMBINE)
def test_a_sample_s_guidance_does_not_depend_on_its_batch(combine):
    term = DiscriminatorTerm(EnsembleLogRatio(of_others, combine), DiscriminatorSettings(tau_min=0.0))
    whole = point(16)
    together, _ = term(whole)
    assert together is not None
    for part in (slice(0, 5), slice(5, 16)):
        alone, _ = term(Point(whole.x[part], whole.sigma[part], None, 0, 1, (0.1, 5.0)))
        torch.testing.assert_close(alone, together[part], rtol=1e-12, atol=1e-12)


def test_the_second_order_has_its_own_weight():
    settings = DiscriminatorSettings(weight=2.0, second_order_weight=0.5, tau_min=0.0)
    term = DiscriminatorTerm(EnsembleLogRatio(of_others), settings)
    first, second = term(point(8))[0], term(point(8, order=2))[0]
    assert first is not None and second is not None
    torch.testing.assert_close(first, 4 * second)


def test_the_published_clip_is_of_the_combined_probability():
    """The logarithm is taken of the combined probability, so that is what is clipped: members of +20 and -4
    give 8, within the bounds, and a gradient; +20 and +10 give 15, outside, and none."""
    sigma = torch.ones(2, dtype=torch.float64)

    def members(y: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
        return y.sum(1) * 0 + torch.tensor([[20.0, 20.0], [-4.0, 10.0]]) + y.sum(1)

    x = torch.zeros(2, 2, dtype=torch.float64)
    value, gradient = log_ratio_and_gradient(EnsembleLogRatio(members), x, sigma, None, saturate=True)
    bound = math.log((1 - PUBLISHED_CLIP) / PUBLISHED_CLIP)
    assert value.tolist() == pytest.approx([8.0, bound], rel=1e-2)
    assert gradient[0].abs().min() > 0.1 and (gradient[1] == 0).all()


def test_members_of_another_shape_than_one_logit_per_sample_are_refused():
    x, sigma = points(4)
    with pytest.raises(ValueError, match=r"logits as \[members, 4\], found \[4\]"):
        log_ratio_and_gradient(EnsembleLogRatio(lambda y, t, labels: y.sum(1)), x, sigma, None)

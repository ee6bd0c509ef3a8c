"""Classifier guidance on mixtures with known class probabilities, entropy scaling on closed forms, and all
guidance together."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusion.mixtures import MODEL, REAL, ClassifierFreeDenoiser, Labelled
from torch import Tensor

from dgflow.diffusion import noise
from dgflow.diffusion.classifier_guidance import (
    ENTROPY_FLOOR,
    ClassifierTerm,
    entropy,
    entropy_scale,
    logits_and_gradient,
)
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
from dgflow.diffusion.guidance import GuidanceTerm, Point
from dgflow.diffusion.guidance_settings import Boost, ClassifierSettings, DiscriminatorSettings, Switch
from dgflow.diffusion.heun import edm_sigmas, heun
from dgflow.diffusion.samplers import Sample
from dgflow.diffusion.times import TimeMap, cosine_from_sigma, sigma_from_tau, tau_from_sigma

CLASSES = Labelled(REAL)
INDEX = torch.arange(600)
LABELS = INDEX % 2
SIGMAS = edm_sigmas(18)


def latents(index: Tensor) -> Tensor:
    return noise.standard_normal(4, index, (2,), step=0, draw=noise.LATENT)


def linear(y: Tensor, time: Tensor) -> Tensor:
    """Two classes; the gradient of log p(0 | y) is (1 - p) * (3, -1)."""
    return torch.stack([y @ torch.tensor([3.0, -1.0]), 0.0 * y[:, 0]], dim=1)


def at(sigma: Tensor, *, labels: Tensor | None = None, x: Tensor | None = None) -> Point:
    x = latents(torch.arange(len(sigma))) if x is None else x
    labels = torch.zeros(len(sigma), dtype=torch.int64) if labels is None else labels
    return Point(x, sigma.double(), labels, 0, 1, (float(sigma.min()), float(sigma.max())))


def test_weight_1_with_an_exact_classifier_makes_the_unconditional_model_conditional() -> None:
    x = latents(INDEX)
    wanted = heun(CLASSES.denoiser, x, SIGMAS, class_labels=LABELS).x
    plain = heun(REAL.denoiser, x, SIGMAS, class_labels=LABELS).x
    found = heun(REAL.denoiser, x, SIGMAS, class_labels=LABELS, guidance=[ClassifierTerm(CLASSES.logits)]).x
    assert float((found - wanted).abs().max()) < 1e-4 < 0.3 < float((plain - wanted).abs().mean())
    assert float(((found[:, 0] > 0) == (LABELS == 1)).double().mean()) > 0.99


@pytest.mark.parametrize("entropy_scaling", [False, True])
@pytest.mark.parametrize("time", [tau_from_sigma, cosine_from_sigma])
def test_the_gradient_is_that_of_finite_differences_with_a_scale_that_is_held(
    time: TimeMap, entropy_scaling: bool
) -> None:
    """d/dx of log p(class | x), times weight and entropy scale; the scale depends on x and is not
    differentiated."""
    sigma = torch.tensor([0.3, 1.0, 2.0, 5.0, 20.0], dtype=torch.float64)
    x, labels = 2 * latents(torch.arange(5)), torch.tensor([0, 1, 0, 1, 0])
    tau = tau_from_sigma(sigma)

    def logits(x: Tensor) -> Tensor:
        return CLASSES.logits(x / (1 + sigma**2).sqrt()[:, None], tau)

    def with_time(y: Tensor, told: Tensor) -> Tensor:
        # The exact tau, so that the network's float32 time does not affect the measurement.
        torch.testing.assert_close(told.double(), time(sigma), rtol=1e-6, atol=1e-7)
        return CLASSES.logits(y, tau)

    gradient, log_ratio = ClassifierTerm(
        with_time, ClassifierSettings(weight=1.7, entropy_scaling=entropy_scaling), time=time
    )(at(sigma, labels=labels, x=x))
    assert gradient is not None and gradient.dtype == torch.float64 and log_ratio is None
    p = logits(x).softmax(dim=1)
    scale = (
        math.log(1000) / (p * -p.log()).sum(dim=1) if entropy_scaling else torch.ones(5, dtype=torch.float64)
    )
    for i in range(2):
        h = torch.zeros(2, dtype=torch.float64)
        h[i] = 1e-6
        rise = (logits(x + h).log_softmax(dim=1) - logits(x - h).log_softmax(dim=1)).gather(
            1, labels[:, None]
        )[:, 0]
        torch.testing.assert_close(gradient[:, i], 1.7 * scale * rise / 2e-6, rtol=2e-5, atol=2e-5)


def test_one_hot_labels_mean_the_same_as_indices() -> None:
    sigma = torch.tensor([0.5, 2.0])
    term, labels = ClassifierTerm(CLASSES.logits), torch.tensor([1, 0])
    (a, _), (b, _) = term(at(sigma, labels=labels)), term(at(sigma, labels=torch.eye(2)[labels]))
    assert a is not None and b is not None and torch.equal(a, b)


@pytest.mark.parametrize("entropy_scaling", [False, True])
def test_the_weight_switches_at_its_tau_and_multiplies(entropy_scaling: bool) -> None:
    switch = Switch(above=0.25, below=1.5, timestep=299)
    sigma = sigma_from_tau(
        torch.tensor([0.1, switch.tau - 1e-5, switch.tau + 1e-5, 0.9], dtype=torch.float64)
    )
    options: dict[str, Any] = {"entropy_scaling": entropy_scaling}
    plain, _ = ClassifierTerm(linear, ClassifierSettings(**options))(at(sigma))
    switched, _ = ClassifierTerm(linear, ClassifierSettings(weight=switch, **options))(at(sigma))
    assert plain is not None and switched is not None
    torch.testing.assert_close(
        switched / plain,
        torch.tensor([1.5, 1.5, 0.25, 0.25]).double()[:, None].expand(4, 2),
        rtol=1e-12,
        atol=0,
    )


@pytest.mark.parametrize(
    ("options", "asleep"),
    [
        ({"weight": 0.0}, [True, True]),
        ({"weight": Switch(above=0.0, below=1.0, timestep=499)}, [False, True]),
        ({"weight": Switch(above=1.0, below=0.0, timestep=499)}, [True, False]),
        ({"tau_min": 0.5}, [True, False]),
        ({"tau_max": 0.5}, [False, True]),
        ({}, [False, False]),
    ],
)
def test_where_it_has_no_effect_the_classifier_is_not_evaluated(
    options: dict[str, Any], asleep: list[bool]
) -> None:
    """Evaluated at tau 0.2 and at tau 0.8."""
    calls: list[Tensor] = []

    def counting(y: Tensor, time: Tensor) -> Tensor:
        calls.append(time)
        return linear(y, time)

    found = []
    for tau in (0.2, 0.8):
        calls.clear()
        gradient, _ = ClassifierTerm(counting, ClassifierSettings(**options))(
            at(sigma_from_tau(torch.full((3,), tau, dtype=torch.float64)))
        )
        assert (gradient is None) == (not calls)
        found.append(gradient is None)
    assert found == asleep


def test_a_window_up_to_1_has_no_upper_end() -> None:
    """ADM's schedule begins at sigma = 157.4, tau = 1.003."""
    gradient, _ = ClassifierTerm(linear)(at(torch.tensor([157.4, 157.4])))
    assert gradient is not None and bool((gradient != 0).any(1).all())


def test_samples_outside_the_window_get_nothing_even_where_the_classifier_fails() -> None:
    def fails_below(y: Tensor, time: Tensor) -> Tensor:
        return linear(y, time) * torch.where(time < 0.5, math.nan, 1.0)[:, None]

    sigma = sigma_from_tau(torch.tensor([0.2, 0.8], dtype=torch.float64))
    gradient, _ = ClassifierTerm(fails_below, ClassifierSettings(tau_min=0.5))(at(sigma))
    assert gradient is not None and bool((gradient[0] == 0).all()) and bool((gradient[1] != 0).all())
    gradient, _ = ClassifierTerm(fails_below)(at(sigma))
    assert gradient is not None and bool(gradient[0].isnan().all())


def test_the_times_at_which_the_gradient_jumps_are_told() -> None:
    assert ClassifierTerm(linear).tau_edges == ()
    switch = Switch(above=1.0, below=2.0, timestep=399)
    term = ClassifierTerm(linear, ClassifierSettings(weight=switch, tau_min=0.1, tau_max=0.7))
    assert term.tau_edges == (0.7, switch.tau, 0.1)


def test_labels_are_required() -> None:
    point = Point(latents(torch.arange(2)), torch.ones(2).double(), None, 0, 1, (1.0, 1.0))
    with pytest.raises(ValueError, match="needs class_labels"):
        ClassifierTerm(linear)(point)


@pytest.mark.parametrize(
    "labels",
    [torch.zeros(3, dtype=torch.int64), torch.zeros(2), torch.zeros(3, 2)],
    ids=["three", "float", "rows"],
)
def test_labels_of_another_shape_are_refused(labels: Tensor) -> None:
    with pytest.raises(ValueError, match=r"class_labels int64 \[2\]"):
        ClassifierTerm(linear)(at(torch.ones(2), labels=labels))


def test_a_classifier_without_a_class_axis_is_refused() -> None:
    with pytest.raises(ValueError, match=r"logits \[2, classes\], found \[2\]"):
        ClassifierTerm(lambda y, time: y.sum(1))(at(torch.ones(2)))


@pytest.mark.parametrize(
    "options", [{"weight": math.nan}, {"entropy_floor": -1.0}, {"tau_min": 0.5, "tau_max": 0.4}]
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="finite number|entropy_floor|tau_min <= tau_max"):
        ClassifierSettings(**options)


def test_the_gradient_leaves_the_classifier_s_parameters_alone() -> None:
    net = torch.nn.Linear(2, 5)
    logits, gradient = logits_and_gradient(
        lambda y, time: net(y), latents(torch.arange(3)), torch.ones(3), torch.tensor([0, 4, 1])
    )
    assert net.weight.grad is None and not logits.requires_grad and not gradient.requires_grad


def test_the_entropy_scale_of_a_uniform_answer_is_log_1000_over_log_k() -> None:
    assert entropy_scale(torch.zeros(2, 10)).tolist() == pytest.approx([3.0, 3.0], rel=1e-6)
    assert entropy_scale(torch.zeros(2, 1000)).tolist() == pytest.approx([1.0, 1.0], rel=1e-6)


def test_entropy_is_in_nats() -> None:
    logits = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()
    assert entropy(logits).tolist() == pytest.approx(
        [-0.9 * math.log(0.9) - 0.1 * math.log(0.1), math.log(2)], rel=1e-6
    )


def test_the_floor_bounds_the_scale_where_the_published_form_is_infinite() -> None:
    sure = torch.tensor([[300.0, 0.0, 0.0]])
    assert entropy_scale(sure, floor=0.0).tolist() == [math.inf]
    assert entropy_scale(sure).tolist() == pytest.approx([math.log(1000) / ENTROPY_FLOOR], rel=1e-6)


def test_guidance_of_a_classifier_that_is_sure_is_finite() -> None:
    def sure(y: Tensor, time: Tensor) -> Tensor:
        return 300 * linear(y, time)

    x, sigma = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double(), torch.ones(2)
    found = [
        ClassifierTerm(sure, ClassifierSettings(entropy_scaling=True, entropy_floor=floor))(at(sigma, x=x))[0]
        for floor in (ENTROPY_FLOOR, 0.0)
    ]
    assert found[0] is not None and bool(found[0].isfinite().all())
    assert found[1] is not None and not bool(found[1].isfinite().any())


def conditional_ratio(y: Tensor, tau: Tensor, class_labels: Tensor | None) -> Tensor:
    """Returns the output of a perfect conditional discriminator of REAL and MODEL; computed in float64."""
    assert class_labels is not None
    sigma = sigma_from_tau(tau.double())
    x = y.double() * (1 + sigma**2).sqrt()[:, None]
    return Labelled(REAL).log_density(x, sigma, class_labels) - Labelled(MODEL).log_density(
        x, sigma, class_labels
    )


def test_classifier_free_guidance_classifier_and_discriminator_add_up_to_the_conditional_data() -> None:
    """grad log p + 0.4 grad log p(c | x) + 0.6 grad log p(c | x) + grad log q(x | c) / p(x | c) is the score
    of q(x | c)."""
    x, model = latents(INDEX), Labelled(MODEL)
    denoiser = ClassifierFreeDenoiser(model.denoiser, null_label=2, scale=0.4)
    terms: list[GuidanceTerm] = [
        ClassifierTerm(model.logits, ClassifierSettings(weight=0.6)),
        DiscriminatorTerm(
            conditional_ratio, DiscriminatorSettings(weight=1.0, second_order_weight=1.0, tau_min=0.0)
        ),
    ]
    wanted = heun(CLASSES.denoiser, x, SIGMAS, class_labels=LABELS).x
    found = heun(denoiser, x, SIGMAS, class_labels=LABELS, guidance=terms)
    assert (
        float((found.x - wanted).abs().max()) < 2e-3
        and found.guidance_nfe == 2 * 35
        and found.log_ratio is not None
    )
    halves = [heun(denoiser, x, SIGMAS, class_labels=LABELS, guidance=[term]).x for term in terms]
    assert all(float((half - wanted).abs().mean()) > 0.02 for half in halves)


def run_everything(index: Tensor) -> Sample:
    """Runs switches, entropy scaling, norm matching, boosts and churn, on samples of the given indices."""
    terms = [
        ClassifierTerm(
            CLASSES.logits,
            ClassifierSettings(
                weight=Switch(above=0.5, below=1.0, timestep=399), entropy_scaling=True, tau_min=0.02
            ),
        ),
        DiscriminatorTerm(
            conditional_ratio,
            DiscriminatorSettings(
                weight=Switch(above=1.0, below=0.7, timestep=399),
                second_order_weight=0.5,
                boost=Boost(weight=Switch(above=3.0, below=0.75, timestep=399)),
                match_preceding_norm=True,
            ),
        ),
    ]
    denoiser = ClassifierFreeDenoiser(
        Labelled(MODEL).denoiser, null_label=2, scale=Switch(above=1.25, below=2.0, timestep=299)
    )
    return heun(
        denoiser,
        latents(index),
        SIGMAS,
        class_labels=LABELS[index],
        guidance=terms,
        S_churn=2.0,
        churn_noise=lambda step: noise.standard_normal(4, index, (2,), step=step, draw=noise.CHURN),
    )


def test_with_all_guidance_on_a_sample_does_not_depend_on_its_batch() -> None:
    index = torch.arange(12)
    whole = run_everything(index)
    assert whole.log_ratio is not None and bool(whole.x.isfinite().all())
    for part in (index[:1], index[3:8], index.flip(0)):
        some = run_everything(part)
        torch.testing.assert_close(some.x, whole.x[part], rtol=0, atol=1e-5)
        assert some.log_ratio is not None
        torch.testing.assert_close(some.log_ratio, whole.log_ratio[part], rtol=0, atol=1e-4)


def test_a_float32_classifier_moves_gradients_by_rounding_only() -> None:
    sigma = torch.tensor([0.3, 1.0, 5.0, 40.0])
    found = []
    for dtype in (torch.float32, torch.float64):
        term = ClassifierTerm(
            lambda y, time, dtype=dtype: CLASSES.logits(y, time).to(dtype),
            ClassifierSettings(entropy_scaling=True),
        )
        gradient, _ = term(at(sigma))
        assert gradient is not None and gradient.dtype == torch.float64
        found.append(gradient)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)

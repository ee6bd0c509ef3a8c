"""Discriminator guidance whose weights switch in time, and whose gradient is scaled to the norm of the terms
before it."""

from __future__ import annotations

import math

import pytest
import torch
from diffusion.published import BatchWindow
from torch import Tensor

from dgflow.diffusion.discriminator_guidance import MAX_NORM_RATIO, DiscriminatorTerm
from dgflow.diffusion.guidance import GuidanceTerm, Point, guide
from dgflow.diffusion.guidance_settings import Boost, DiscriminatorSettings, Switch
from dgflow.diffusion.heun import edm_sigmas, heun
from dgflow.diffusion.times import sigma_from_tau, tau_from_sigma


def linear(y: Tensor, tau: Tensor, class_labels: Tensor | None) -> Tensor:
    """Returns a log-ratio with gradient (3, -1) with respect to y everywhere."""
    return y @ torch.tensor([3.0, -1.0])


def zero(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
    return torch.zeros_like(x)


AT = 499  # the timestep of the switches, linear-VP time 0.5011
EDGE = Switch(above=1.0, below=0.0, timestep=AT).tau
SPREAD = sigma_from_tau(torch.tensor([0.2, EDGE - 1e-5, EDGE + 1e-5, 0.9], dtype=torch.float64))


def spread(step: int = 0, order: int = 1, x: Tensor | None = None) -> Point:
    """Returns four samples at tau 0.2 to 0.9."""
    x = torch.ones(4, 2, dtype=torch.float64) if x is None else x
    return Point(x, SPREAD, None, step, order, (float(SPREAD[0]), float(SPREAD[-1])))


def test_both_orders_weights_may_switch_in_tau() -> None:
    term = DiscriminatorTerm(
        linear,
        DiscriminatorSettings(
            weight=Switch(above=2.0, below=0.5, timestep=AT),
            second_order_weight=Switch(above=0.0, below=3.0, timestep=AT),
        ),
    )
    plain, _ = DiscriminatorTerm(linear)(spread())
    for order, expected in ((1, [0.5, 0.5, 2.0, 2.0]), (2, [3.0, 3.0, 0.0, 0.0])):
        gradient, _ = term(spread(order=order))
        assert gradient is not None and plain is not None
        torch.testing.assert_close(
            gradient[:, 0] / plain[:, 0], torch.tensor(expected).double(), rtol=1e-12, atol=0
        )


def test_on_the_side_where_the_weight_is_0_the_discriminator_is_not_evaluated() -> None:
    calls: list[Tensor] = []

    def counting(y: Tensor, tau: Tensor, class_labels: Tensor | None) -> Tensor:
        calls.append(tau)
        return linear(y, tau, class_labels)

    sample = heun(
        zero,
        torch.ones(2, 2),
        edm_sigmas(18),
        guidance=[
            DiscriminatorTerm(
                counting, DiscriminatorSettings(weight=Switch(above=1.0, below=0.0, timestep=AT))
            )
        ],
    )
    expected = sum(tau_from_sigma(sigma) > EDGE for sigma in edm_sigmas(18)[:-1])
    assert sample.guidance_nfe == len(calls) == expected > 0
    assert float(torch.cat(calls).min()) > EDGE


def test_the_boost_may_switch_in_tau() -> None:
    x = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]).double()
    boosted, _ = DiscriminatorTerm(
        linear, DiscriminatorSettings(boost=Boost(weight=Switch(above=3.0, below=0.75, timestep=AT)))
    )(spread(x=x))
    plain, log_ratio = DiscriminatorTerm(linear)(spread(x=x))
    assert (
        boosted is not None
        and plain is not None
        and log_ratio is not None
        and (log_ratio < 0).tolist() == [True, False, True, False]
    )
    torch.testing.assert_close(
        boosted[:, 0] / plain[:, 0], torch.tensor([0.75, 1.0, 3.0, 1.0]).double(), rtol=1e-12, atol=0
    )


def test_a_window_up_to_1_has_no_upper_end_but_in_the_published_form() -> None:
    """The linear schedule of 1000 steps begins at sigma = 157.4, tau = 1.003."""
    point = Point(torch.ones(1, 2).double(), torch.tensor([157.4]).double(), None, 0, 1, (157.4, 157.4))
    assert DiscriminatorTerm(linear)(point)[0] is not None
    assert BatchWindow(DiscriminatorTerm(linear))(point) == (None, None)


def test_the_times_at_which_the_gradient_jumps_are_told() -> None:
    assert DiscriminatorTerm(linear).tau_edges == (0.01,)
    early, late = (Switch(above=1.0, below=2.0, timestep=timestep) for timestep in (399, 299))
    term = DiscriminatorTerm(
        linear, DiscriminatorSettings(weight=early, tau_min=0.1, tau_max=0.7, boost=Boost(weight=late))
    )
    assert term.tau_edges == (0.7, early.tau, late.tau, 0.1)


def fixed(gradient: Tensor) -> GuidanceTerm:
    """Returns a term with this gradient everywhere."""
    return lambda point: (gradient, None)


def test_a_matched_gradient_has_its_direction_and_the_norm_of_the_terms_before_it() -> None:
    before = torch.tensor([[3.0, 4.0], [0.1, 0.0], [0.0, -2.0], [0.0, 0.0]]).double()
    term = DiscriminatorTerm(linear, DiscriminatorSettings(match_preceding_norm=True))
    plain, _ = DiscriminatorTerm(linear)(spread())
    # There are two terms before it: the norm of their sum counts.
    total = guide([fixed(0.25 * before), fixed(0.75 * before), term], spread()).gradient
    assert plain is not None and total is not None
    found = total - before
    torch.testing.assert_close(
        found.norm(dim=1), torch.tensor([5.0, 0.1, 2.0, 0.0]).double(), rtol=1e-12, atol=1e-15
    )
    torch.testing.assert_close(
        found[:3] / found[:3].norm(dim=1, keepdim=True), plain[:3] / plain[:3].norm(dim=1, keepdim=True)
    )


def test_weight_and_boost_come_after_the_matching() -> None:
    before = torch.tensor([[3.0, 4.0]]).double().expand(4, 2)
    x = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]).double()
    term = DiscriminatorTerm(
        linear,
        DiscriminatorSettings(
            weight=Switch(above=2.0, below=0.5, timestep=AT),
            boost=Boost(weight=3.0),
            match_preceding_norm=True,
        ),
    )
    total = guide([fixed(before), term], spread(x=x)).gradient
    assert total is not None
    torch.testing.assert_close(
        (total - before).norm(dim=1) / 5, torch.tensor([1.5, 0.5, 6.0, 2.0]).double(), rtol=1e-12, atol=0
    )


def test_matching_scales_up_by_no_more_than_its_bound() -> None:
    before = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).double()
    point = Point(torch.ones(2, 2).double(), torch.ones(2).double(), None, 0, 1, (1.0, 1.0))
    for strength in (1e-9, 0.0):
        term = DiscriminatorTerm(
            lambda y, tau, labels, k=strength: k * linear(y, tau, labels),
            DiscriminatorSettings(match_preceding_norm=True),
        )
        total = guide([fixed(before), term], point).gradient
        assert total is not None
        expected = torch.tensor([[3.0, -1.0], [0.0, 0.0]]).double() * strength * MAX_NORM_RATIO / math.sqrt(2)
        torch.testing.assert_close(total - before, expected, rtol=1e-5, atol=1e-15)


def test_matching_with_no_term_before_it_is_refused_before_any_evaluation() -> None:
    def fails(y: Tensor, tau: Tensor, class_labels: Tensor | None) -> Tensor:
        raise AssertionError("evaluated")

    # Outside its window, too: the error is found in the first step.
    term = DiscriminatorTerm(fails, DiscriminatorSettings(tau_max=0.5, match_preceding_norm=True))
    with pytest.raises(ValueError, match="list that term"):
        heun(zero, torch.ones(1, 2), edm_sigmas(18), guidance=[term, fixed(torch.zeros(1, 2))])


def test_a_term_before_it_that_is_silent_for_now_is_no_mistake_and_silences_the_matched_one() -> None:
    silent: GuidanceTerm = lambda point: (None, None)  # noqa: E731
    advice = guide(
        [silent, DiscriminatorTerm(linear, DiscriminatorSettings(match_preceding_norm=True))], spread()
    )
    assert (
        advice.gradient is not None
        and bool((advice.gradient == 0).all())
        and advice.log_ratios[1] is not None
    )

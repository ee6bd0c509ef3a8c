"""Weights of particles, resampling by them, and the distribution of a particle filter with the exact
log-ratio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from diffusion.mixtures import MODEL, REAL
from torch import Tensor

from dgflow.diffusion import noise
from dgflow.diffusion.heun import HeunPath, edm_sigmas
from dgflow.diffusion.paths import Path, State
from dgflow.diffusion.samplers import Noise
from dgflow.diffusion.selection.particles import Filtered, Rule, filtered
from dgflow.diffusion.selection.resampling import CLIP, chosen, effective_size, log_mean, normalised

RANDOM = np.random.default_rng(5)
LOG_WEIGHTS = 3.0 * RANDOM.normal(size=(50, 7))
UNIFORMS = RANDOM.uniform(size=(50, 7))


def test_weights_sum_to_one_however_large_their_logarithms_are():
    for shift in (0.0, 1e4, -1e4):
        np.testing.assert_allclose(normalised(LOG_WEIGHTS + shift).sum(axis=1), 1.0, rtol=1e-14)
        np.testing.assert_allclose(
            log_mean(LOG_WEIGHTS + shift) - shift, np.log(np.exp(LOG_WEIGHTS).mean(axis=1)), atol=1e-11
        )
    assert pytest.approx(13.8155, abs=1e-4) == CLIP


def test_the_effective_size_is_the_number_of_particles_that_share_the_weight():
    for count in range(1, 8):
        weights = np.where(np.arange(7) < count, 1.0 / count, 0.0)[None]
        assert effective_size(weights) == pytest.approx(count)
    assert Rule(frozenset(), share=0.5).due(
        np.array([[0.5, 0.5, 0, 0, 0], [0.4, 0.3, 0.3, 0, 0]])
    ).tolist() == [True, False]
    assert Rule(frozenset()).due(np.full((1, 3), 1 / 3)).all()


def test_systematic_resampling_gives_every_particle_its_number_to_within_one():
    weights = normalised(LOG_WEIGHTS)
    found = chosen(weights, UNIFORMS, "systematic")
    counts = (found[:, :, None] == np.arange(7)).sum(axis=1)
    assert (np.abs(counts - 7 * weights) < 1.0).all()
    assert (np.diff(found) >= 0).all()


def test_multinomial_resampling_inverts_the_cumulative_weights_for_every_place():
    weights = normalised(LOG_WEIGHTS)
    found = chosen(weights, UNIFORMS, "multinomial")
    expected = [np.searchsorted(w.cumsum(), u, side="right") for w, u in zip(weights, UNIFORMS, strict=True)]
    np.testing.assert_array_equal(found, np.stack(expected))
    assert chosen(np.array([[0.5, 0.5 - 1e-16]]), np.full((1, 2), 1 - 2**-53), "multinomial").max() == 1


@dataclass(frozen=True)
class ExactPath(Path):
    """Draws the next level from the reverse transition of MODEL itself: x0 by its posterior, and the next x
    between both, so that the particles of every level have MODEL's distribution at that level, without
    discretisation error."""

    levels: Sequence[float] = (20.0, 3.0, 1.0, 0.5, 0.25, 0.1, 0.0)
    guidance: tuple[()] = ()

    @property
    def draws(self) -> Sequence[int]:
        return [3] * (len(self.levels) - 1)

    @property
    def evaluations(self) -> Sequence[int]:
        return [1] * (len(self.levels) - 1)

    def move(
        self,
        state: State,
        at: Sequence[int],
        class_labels: Tensor | None,
        noise: Noise | None,
        spread: Sequence[bool] | None = None,
    ) -> State:
        assert noise is not None
        here, there = self.levels[at[0]], self.levels[at[0] + 1]
        x, means = state.x, torch.tensor(MODEL.means, dtype=torch.float64)
        variance = MODEL.std**2 + here**2
        logits = torch.tensor(MODEL.weights).double().log() - (x[:, None] - means).square().sum(2) / (
            2 * variance
        )
        first = logits.softmax(1)[:, 0]
        mean = means[(noise(0)[:, 0] > torch.special.ndtri(first)).long()]
        kept = MODEL.std**2 / variance
        x0 = mean + kept * (x - mean) + MODEL.std * here / variance**0.5 * noise(1)
        along = (there / here) ** 2
        x = x0 + along * (x - x0) + there * (1 - along) ** 0.5 * noise(2)
        return state.moved(x, [], np.ones((len(x), 1), np.int64))


EXACT = ExactPath()


def run(rule: Rule, samples: int, count: int, extra: float = 0.0, path: Path = EXACT) -> Filtered:
    """Runs a filter with the exact log-ratio of REAL to MODEL plus an offset."""
    rows = torch.arange(samples * count)
    # At the highest level MODEL's own noisy distribution, which differs slightly from that of the latents.
    first = MODEL.draw(noise.uniform(8, rows, (), step=100), noise.standard_normal(8, rows, (2,), step=101))
    begun = path.begin(noise.standard_normal(8, rows, (2,), step=102), first)

    def move(state: State, position: int, spread: Sequence[bool] | None) -> State:
        return path.move(
            state,
            [position] * len(rows),
            None,
            lambda number: noise.standard_normal(8, rows, (2,), step=3 * position + number),
            spread,
        )

    def log_ratio(state: State, level: float) -> np.ndarray:
        sigma = torch.full((len(rows),), level, dtype=torch.float64)
        ratio = REAL.log_density(state.x, sigma) - MODEL.log_density(state.x, sigma)
        return (ratio + extra).reshape(samples, count).numpy()

    def uniforms(position: int) -> np.ndarray:
        return noise.uniform(8, torch.arange(samples), (count,), step=200 + position).numpy()

    return filtered(path, begun, rule, move=move, log_ratio=log_ratio, uniforms=uniforms)


BELOW_0 = 0.5 * sum(
    weight * math.erfc(mean / (REAL.std * math.sqrt(2)))
    for weight, (mean, _) in zip(REAL.weights, REAL.means, strict=True)
)
"""The share of REAL with a first coordinate below 0."""

RULES = {
    "systematic": Rule(frozenset(range(6)), 0.7),
    "multinomial": Rule(frozenset({1, 3, 5}), 1.0, "multinomial"),
    "never": Rule(frozenset()),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_constant_s_estimate_is_unbiased_and_weighs_the_particles_of_the_data(rule):
    """E[Z] is the mean of the ratio under MODEL, and E[Z sum of w f(x)] that of f under REAL, for any number
    of particles."""
    samples, count = 4000, 3
    end = run(rule, samples, count, extra=0.7)
    np.testing.assert_allclose(end.weights.sum(axis=1), 1.0, rtol=1e-14)
    constant = np.exp(end.log_constant - 0.7)
    x = end.state.x.reshape(samples, count, 2).numpy()
    mean = (np.array(REAL.means) * np.array(REAL.weights)[:, None]).sum(0)
    for values, expected in (
        (constant, 1.0),
        (constant * (end.weights * x[..., 0]).sum(axis=1), mean[0]),
        (constant * (end.weights * (x[..., 0] < 0)).sum(axis=1), BELOW_0),
    ):
        assert abs(values.mean() - expected) < 4 * values.std() / samples**0.5
    assert constant.std() < 1.5


def test_many_particles_drawn_by_weight_have_the_data_s_law_and_the_best_have_not():
    end = run(RULES["systematic"], 400, 24)
    x = end.state.x.reshape(400, 24, 2).numpy()[..., 0]
    uniforms = noise.uniform(9, torch.arange(400), (1,), step=0).numpy()
    drawn, best = chosen(end.weights, uniforms, "multinomial")[:, 0], end.log_ratio.argmax(axis=1)
    of_drawn, of_best = ((x[np.arange(400), taken] < 0).mean() for taken in (drawn, best))
    error = 4 * (0.25 * 0.75 / 400) ** 0.5
    assert abs(of_drawn - BELOW_0) < error < abs(of_best - BELOW_0)
    assert [look.position for look in end.looks] == [0, 1, 2, 3, 4, 5]


def test_copies_part_in_the_step_after_their_resampling_where_the_sampler_has_no_noise():
    path = HeunPath.of(MODEL.denoiser, edm_sigmas(6, 0.05, 20.0), torch.device("cpu"))
    first, second = (
        run(Rule(frozenset({1}), spread=spread), 20, 6, path=path).state.x.unique(dim=0)
        for spread in (True, False)
    )
    assert len(first) == 20 * 6 > len(second)

"""One sample along its path: exact estimates, evenly spaced steps, and the same bits of all samples."""

import pytest
import torch
from torch import Tensor

from dgflow.diffusion import noise
from dgflow.diffusion.ddpm import ddpm
from dgflow.diffusion.denoisers import epsilon_only
from dgflow.diffusion.discrete import DiscreteSchedule
from dgflow.diffusion.evaluation import Guides, eagerly
from dgflow.diffusion.guidance import Point
from dgflow.diffusion.heun import edm_sigmas, heun
from dgflow.diffusion.recorder import FRAMES, Recorder
from dgflow.diffusion.rk45 import rk45

LATENTS = noise.standard_normal(1, torch.arange(4), (1, 2, 2), step=0, draw=noise.LATENT)
PULL = 1e-3


def gaussian(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
    """The denoiser of unit normal data: E[x0 | x] = x / (1 + sigma^2)."""
    return x / (1 + sigma.square()).view(-1, 1, 1, 1)


class Pull:
    """A term whose gradient is a constant."""

    def __call__(self, point: Point) -> tuple[Tensor, None]:
        return torch.full_like(point.x, PULL), None


def nothing(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
    return torch.zeros_like(x)


def recorded(recorder: Recorder) -> tuple[list[float], Tensor]:
    found = recorder.estimates()
    assert found is not None
    return found


@pytest.mark.parametrize("steps", [2, 9, 18, 100])
def test_estimates_are_those_of_the_guided_score_at_evenly_spaced_steps(steps):
    recorder, sigmas = Recorder([Pull()]), edm_sigmas(steps)
    heun(nothing, LATENTS, sigmas, guidance=recorder.guides)
    levels, estimates = recorded(recorder)
    assert len(levels) == min(steps, FRAMES) and levels[0] == sigmas[0]
    places = [sigmas.index(level) for level in levels]
    gaps = {after - before for before, after in zip(places, places[1:], strict=False)}
    assert max(gaps) - min(gaps) <= max(1, steps // FRAMES) and places[-1] >= 0.85 * (steps - 1)
    # Data that are all 0, and a gradient g: the guided estimate is sigma^2 g (Tweedie).
    expected = torch.tensor(levels).square().view(-1, 1, 1, 1) * PULL
    torch.testing.assert_close(estimates, expected.expand(-1, 1, 2, 2))


def test_an_adaptive_solver_ends_at_the_sample_and_idle_steps_are_left_out():
    recorder = Recorder([])
    sample = rk45(gaussian, LATENTS, guidance=recorder.guides)
    levels, estimates = recorded(recorder)
    assert 4 <= len(levels) == len(set(levels)) <= FRAMES
    torch.testing.assert_close(estimates[-1], sample.x[0].float(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("how", [None, eagerly])
def test_no_bit_of_any_sample_depends_on_it(how):
    def by_ddpm(guidance) -> Tensor:
        predict = epsilon_only(lambda y, time, labels: torch.tanh(y))
        schedule = DiscreteSchedule.of(respacing="20")
        return ddpm(predict, LATENTS, schedule, guidance=guidance, noise=lambda step: LATENTS).x

    for run in (by_ddpm, lambda guidance: heun(gaussian, LATENTS, edm_sigmas(6), guidance=guidance).x):
        plain = [Pull()] if how is None else Guides([Pull()], how)
        recorder = Recorder(plain)
        assert torch.equal(run(recorder.guides), run(plain))
        assert recorded(recorder)[1].shape[1:] == (1, 2, 2)

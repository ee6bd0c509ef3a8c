"""Discrete schedules: conversion of timesteps and noise levels, windows that begin after a timestep, and
refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from dgflow.diffusion.discrete import DiscreteSchedule, linear_betas, respaced_timesteps
from dgflow.diffusion.times import tau_from_sigma

SCHEDULES = [("linear", 1000), ("cosine", 1000), ("linear", 4000), ("cosine", 50)]


def levels(schedule: DiscreteSchedule) -> torch.Tensor:
    return torch.tensor(schedule.original_sigmas, dtype=torch.float64)


@pytest.mark.parametrize("name, steps", SCHEDULES)
def test_every_level_of_a_schedule_is_its_own_timestep(name: str, steps: int) -> None:
    schedule = DiscreteSchedule.of(name, steps, "25")
    found = schedule.timesteps_from_sigma()(levels(schedule)).float()
    torch.testing.assert_close(found, torch.arange(steps).float(), rtol=1.2e-7, atol=1e-7)


def test_a_level_half_way_in_log_sigma_is_half_a_timestep_further() -> None:
    schedule = DiscreteSchedule.of("linear")
    sigma = levels(schedule)
    found = schedule.timesteps_from_sigma()((sigma[:-1] * sigma[1:]).sqrt())
    torch.testing.assert_close(found, torch.arange(999) + 0.5, rtol=0, atol=1e-9, check_dtype=False)


def test_levels_beyond_the_schedule_are_its_ends() -> None:
    schedule = DiscreteSchedule.of("linear")
    sigma = torch.tensor([0.0, 1e-3, 200.0, 1e6], dtype=torch.float64)
    assert schedule.timesteps_from_sigma()(sigma).tolist() == [0.0, 0.0, 999.0, 999.0]
    assert schedule.timesteps_from_sigma(1 / 999)(sigma).tolist() == pytest.approx([0.0, 0.0, 1.0, 1.0])


@pytest.mark.parametrize("name, steps", SCHEDULES)
def test_tau_after_a_timestep_lies_strictly_between_it_and_the_next(name: str, steps: int) -> None:
    schedule = DiscreteSchedule.of(name, steps)
    taus = tau_from_sigma(levels(schedule)).tolist()
    for timestep in range(steps - 1):
        assert taus[timestep] < schedule.tau_after(timestep) < taus[timestep + 1]


@pytest.mark.parametrize("timestep, count", [(100, 224), (200, 200), (650, 87)])
def test_of_250_steps_the_published_number_lies_after_a_switch(timestep: int, count: int) -> None:
    """Kim et al. 2023: DiT-G++'s window and branch, ADM-G++'s switch."""
    schedule = DiscreteSchedule.of("linear", respacing="250")
    assert sum(tau_from_sigma(sigma) > schedule.tau_after(timestep) for sigma in schedule.sigmas) == count


def test_a_respaced_schedule_has_the_levels_of_the_timesteps_that_it_keeps() -> None:
    whole = DiscreteSchedule.of("cosine")
    schedule = whole.respaced("10,20,30")
    assert schedule.sigmas == pytest.approx([whole.sigmas[step] for step in schedule.timestep_map], rel=1e-9)
    assert schedule.original_sigmas == whole.sigmas and schedule == DiscreteSchedule.of(
        "cosine", 1000, "10,20,30"
    )


def test_the_posterior_is_bayes_rule() -> None:
    """The precision of y_{i-1} given x0 and y_i is that of y_{i-1} given x0, plus that of y_i given y_{i-1},
    (1 - beta) / beta."""
    schedule = DiscreteSchedule.of("linear", respacing="50")
    for index in range(1, 50):
        beta, before = schedule.betas[index], schedule.alphas_cumprod_prev[index]
        variance = 1 / (1 / (1 - before) + (1 - beta) / beta)
        assert schedule.posterior_variance[index] == pytest.approx(variance, rel=1e-9)
        assert schedule.posterior_mean_coef1[index] == pytest.approx(
            variance * math.sqrt(before) / (1 - before), rel=1e-9
        )
        assert schedule.posterior_mean_coef2[index] == pytest.approx(
            variance * math.sqrt(1 - beta) / beta, rel=1e-9
        )


@pytest.mark.parametrize("respacing", ["0", "0,0", [0], "ten", "10,", "ddim", "ddimx", "-5"])
def test_a_respacing_that_is_no_number_of_steps_is_refused(respacing: Any) -> None:
    with pytest.raises(ValueError, match='like "250", "ddim25" or "10,20,30"'):
        respaced_timesteps(1000, respacing)


@pytest.mark.parametrize(
    ("num_steps", "respacing", "kept"),
    [
        (30, "3,0,2", (0, 4, 9, 20, 29)),
        (30, [3, 0, 2], (0, 4, 9, 20, 29)),
        (30, "0,1", (15,)),
        (11, "2, 0, 3", (0, 3, 8, 9, 10)),
        (10, [10], tuple(range(10))),
    ],
)
def test_a_section_may_keep_no_step_and_a_list_says_the_same_as_text(
    num_steps: int, respacing: str | list[int], kept: tuple[int, ...]
) -> None:
    """Sections of 10, 10, 10; of 15, 15; and of 4, 4, 3 steps, each from its first kept step to its last."""
    assert respaced_timesteps(num_steps, respacing) == kept


def test_a_respacing_that_the_steps_do_not_allow_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 333 steps of a section of 333, found 400"):
        respaced_timesteps(1000, "10,400,30")
    for count in (0, 1, 300):
        with pytest.raises(ValueError, match=f"no stride keeps {count} of 1000"):
            respaced_timesteps(1000, f"ddim{count}")


def test_a_schedule_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="'quadratic'"):
        DiscreteSchedule.of("quadratic")
    with pytest.raises(ValueError, match="21 or more"):
        linear_betas(20)
    betas = linear_betas(100)
    for wrong in ((*betas, 1.0), (0.0, *betas), (math.nan, *betas)):
        with pytest.raises(ValueError, match=r"betas in \(0, 1\)"):
            DiscreteSchedule(wrong, (0, 50))
    for steps in ((), (5,), (5, 5), (9, 3), (-1, 5), (0, 100)):
        with pytest.raises(ValueError, match="increasing timesteps"):
            DiscreteSchedule(betas, steps)


@pytest.mark.parametrize("timestep", [-1, 999, 1000])
def test_no_time_lies_after_the_last_timestep(timestep: int) -> None:
    with pytest.raises(ValueError, match=f"0 .. 998, found {timestep}"):
        DiscreteSchedule.of("linear").tau_after(timestep)

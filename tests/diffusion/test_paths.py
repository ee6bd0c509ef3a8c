"""Samplers as moves: rows at different positions give the same bits as rows that move together."""

from __future__ import annotations

from functools import partial
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor

from dgflow.diffusion import noise
from dgflow.diffusion.ablation import AblationPath, ablation_sigmas
from dgflow.diffusion.ancestral import DDIMPath, DDPMPath
from dgflow.diffusion.correction_settings import NetworkSettings, ScalingSettings
from dgflow.diffusion.corrections import NetworkCorrection, NoiseScaling
from dgflow.diffusion.denoisers import predictor_of
from dgflow.diffusion.discrete import DiscreteSchedule
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
from dgflow.diffusion.guidance_settings import Boost, DiscriminatorSettings
from dgflow.diffusion.heun import HeunPath, edm_sigmas, heun
from dgflow.diffusion.paths import Path, State, walk
from dgflow.diffusion.restart import RestartPath
from dgflow.diffusion.restart_settings import RestartInterval
from dgflow.diffusion.samplers import Sample
from dgflow.diffusion.score_model import ScoreModel
from dgflow.diffusion.times import per_sample

INDEX = torch.arange(6)
SIDES = (2, 3, 3)
LATENTS = noise.standard_normal(5, INDEX, SIDES, step=0)
CHURN: dict[str, Any] = {"S_churn": 5.0, "S_min": 0.05, "S_max": 20.0, "S_noise": 1.003}


def denoiser(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
    return x / per_sample(1.0 + sigma.square(), x) + 0.1 * torch.tanh(x)


def looks_fake(y: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
    return y.sin().flatten(1).sum(1) - time


TERM = DiscriminatorTerm(
    looks_fake, DiscriminatorSettings(weight=2.0, second_order_weight=0.5, boost=Boost(), tau_max=0.8)
)


def other(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
    return torch.tanh(x)


AWAY = NetworkCorrection(ScoreModel(other), NetworkSettings(weight=1.5, sigma_min=0.1, sigma_max=9.0))


def heun_path(**options: Any) -> HeunPath:
    guidance = [TERM, AWAY]
    return HeunPath.of(denoiser, edm_sigmas(7, 0.01, 40.0), LATENTS.device, guidance=guidance, **options)


def restart_path(**options: Any) -> RestartPath:
    restarts = [
        RestartInterval(points=4, repeats=2, sigma_min=1.0, sigma_max=5.0),
        RestartInterval(points=3, repeats=1, sigma_min=0.2, sigma_max=0.6),
    ]
    sigmas = edm_sigmas(7, 0.01, 40.0)
    return RestartPath.of(denoiser, sigmas, LATENTS.device, restarts, guidance=[TERM], **options)


PATHS: dict[str, Path] = {
    "heun": heun_path(),
    "heun-churn": heun_path(**CHURN),
    "restart": restart_path(),
    "restart-churn": restart_path(restart_gamma=0.1, **CHURN),
}
ABLATIONS: tuple[tuple[Any, Any, float | None], ...] = (
    ("vp", "vp", 1.0),
    ("ve", "none", 0.6),
    ("linear", "vp", None),
)
PATHS |= {
    f"ablation-{scaling}-{alpha}": AblationPath.of(
        denoiser,
        ablation_sigmas(7, sigma_min=0.01, sigma_max=40.0),
        LATENTS.device,
        schedule=schedule,
        scaling=scaling,
        solver="heun" if alpha else "euler",
        alpha=alpha or 1.0,
        guidance=[TERM],
        **CHURN,
    )
    for schedule, scaling, alpha in ABLATIONS
}
SCHEDULE = DiscreteSchedule.of("linear", 1000, "9")
PREDICTOR = predictor_of(denoiser, SCHEDULE)
LATE = DiscriminatorTerm(looks_fake, DiscriminatorSettings(tau_min=0.5))
TWICE = NoiseScaling(ScalingSettings(factor=1.1, twice=True))
PATHS |= {
    "ddim-scaled-twice": DDIMPath(PREDICTOR, SCHEDULE, [LATE, TWICE], False),
    "ddpm": DDPMPath(PREDICTOR, SCHEDULE, [TERM]),
    "ddpm-learned": DDPMPath(lambda y, *others: (PREDICTOR(y, *others)[0], y.sin()), SCHEDULE, [TERM], False),
    "ddim": DDIMPath(PREDICTOR, SCHEDULE, [TERM]),
    "ddim-noisy": DDIMPath(PREDICTOR, SCHEDULE, [TERM], False, eta=0.7),
}
each_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


def normals(rows: Tensor, number: int | Tensor) -> Tensor:
    return noise.standard_normal(5, rows, SIDES, step=number, draw=noise.CHURN)


def _drawn(drawn: set[int], number: int) -> Tensor:
    drawn.add(number)
    return normals(INDEX[:1], number)


def alone(path: Path, row: int) -> Sample:
    index = INDEX[row : row + 1]
    return walk(path, LATENTS[row : row + 1], noise=lambda step: normals(index, step))


@each_path
def test_rows_at_different_positions_give_the_bits_of_each_row_alone(path: Path) -> None:
    before = list(accumulate(path.draws, initial=0))
    at = [0] * len(INDEX)
    states = [path.begin(LATENTS[row : row + 1]) for row in range(len(INDEX))]
    end = len(path.levels) - 1
    for turn in range(3 * end):
        moving = [row for row in range(len(INDEX)) if at[row] < end and (turn + row) % 3 != 0]
        if not moving:
            continue
        own = torch.tensor(moving)
        first = torch.tensor([before[at[row]] for row in moving])
        state = path.move(
            State.joined([states[row] for row in moving]),
            [at[row] for row in moving],
            None,
            lambda number, own=own, first=first: normals(own, first + number),
        )
        for place, row in enumerate(moving):
            states[row], at[row] = state.rows([place]), at[row] + 1
    assert at == [end] * len(INDEX)
    for row, state in enumerate(states):
        expected = alone(path, row)
        assert torch.equal(state.x, expected.x)
        assert state.evaluations[0, 0] == expected.nfe == sum(path.evaluations)
        # Of the batches' evaluations, the number that a single row would need.
        assert state.evaluations[0, 1:].sum() == expected.guidance_nfe


def test_evaluations_are_counted_by_row() -> None:
    path = heun_path()
    state = State.joined([path.begin(LATENTS[:1]), path.begin(LATENTS[1:2])])
    last = len(path.levels) - 2
    moved = path.move(state, [last, last - 1], None, None)
    assert moved.evaluations[:, 0].tolist() == [1, 2]


def test_the_walk_of_a_path_is_the_sampler() -> None:
    sigmas, churn_noise = edm_sigmas(7, 0.01, 40.0), lambda step: normals(INDEX, step)
    expected = heun(denoiser, LATENTS, sigmas, guidance=[TERM, AWAY], churn_noise=churn_noise, **CHURN)
    found = walk(heun_path(**CHURN), LATENTS, noise=lambda step: normals(INDEX, step))
    assert torch.equal(found.x, expected.x)
    assert (found.nfe, expected.nfe) == (13, 13)
    assert found.guidance_nfe == expected.guidance_nfe


def test_copies_that_have_to_part_churn_as_much_as_a_step_can() -> None:
    x = LATENTS[:2]
    seen: list[float] = []

    def watching(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        seen.extend(sigma.tolist())
        return denoiser(x, sigma, labels)

    sigmas = edm_sigmas(7, 0.01, 40.0)
    watched = HeunPath.of(watching, sigmas, x.device, S_min=0.05, S_max=20.0)
    watched.move(watched.begin(x), [3, 3], None, lambda number: x, spread=[True, False])
    assert seen[0] == pytest.approx(2**0.5 * sigmas[3])
    assert seen[1] == sigmas[3]
    watched.move(watched.begin(x), [0, 0], None, lambda number: x, spread=[True, True])
    assert sigmas[0] in seen[4:6]  # 40 is above S_max


def test_the_draws_of_a_sample_may_have_a_step_of_their_own() -> None:
    steps = torch.tensor([4, 0, 7, 7, 2, 1])
    together = noise.standard_normal(9, INDEX, SIDES, step=steps, draw=3)
    for row, step in enumerate(steps.tolist()):
        one = noise.standard_normal(9, INDEX[row : row + 1], SIDES, step=step, draw=3)
        assert torch.equal(together[row : row + 1], one)


def test_samples_are_put_in_the_places_of_others() -> None:
    path = heun_path()
    moved = path.move(path.begin(LATENTS[:3]), [0, 0, 0], None, None)
    found = moved.put([2, 0], path.begin(LATENTS[4:]))
    fresh = path.begin(LATENTS[4:])
    assert torch.equal(found.x, torch.stack([fresh.x[1], moved.x[1], fresh.x[0]]))
    assert found.evaluations[:, 0].tolist() == [0, 2, 0]


@each_path
def test_a_path_says_what_its_moves_take(path: Path) -> None:
    state = path.begin(LATENTS[:1])
    for position, evaluations in enumerate(path.evaluations):
        drawn = set[int]()
        before, state = state, path.move(state, [position], None, partial(_drawn, drawn))
        assert drawn <= set(range(path.draws[position]))
        assert (state.evaluations - before.evaluations)[0, 0] == evaluations


@each_path
def test_samples_that_are_left_alone_keep_every_bit(path: Path) -> None:
    """Their bits stay the same in the sampler's own scaling while other samples of the batch are noised."""
    state, noised = path.begin(LATENTS), LATENTS.clone()
    for position in range(3):
        state = path.move(state, [position] * len(INDEX), None, partial(normals, INDEX))
    noised[1:] = 0.0
    plain = path.move(state, [3] * len(INDEX), None, partial(normals, INDEX))
    other = path.move(state.with_x(state.x + noised), [3] * len(INDEX), None, partial(normals, INDEX))
    assert torch.equal(other.x[1:], plain.x[1:])
    assert not torch.equal(other.x[0], plain.x[0])
    assert torch.equal(other.put([0], plain.rows([0])).x, plain.x)


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_copies_part_in_ddim_by_a_step_of_eta_1(eta: float) -> None:
    path = DDIMPath(PREDICTOR, SCHEDULE, eta=eta)
    whole = DDIMPath(PREDICTOR, SCHEDULE, eta=1.0)
    state = path.begin(LATENTS[:2])
    parted = path.move(state, [0, 0], None, partial(normals, INDEX[:2]), [True, False])
    for row, own in enumerate((whole, path)):
        expected = own.move(state.rows([row]), [0], None, partial(normals, INDEX[row : row + 1]))
        assert torch.equal(parted.x[row : row + 1], expected.x)


def test_noise_that_is_missing_is_an_error() -> None:
    for kind, path in (("DDPM", PATHS["ddpm"]), ("DDIM", PATHS["ddim-noisy"])):
        with pytest.raises(ValueError, match=f"expected noise, since {kind} adds noise"):
            path.move(path.begin(LATENTS), [0] * len(INDEX), None, None)

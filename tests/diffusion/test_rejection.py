"""Rejection on mixtures of one dimension, with known distribution, scores and log-ratios."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm
from steps.toy_networks import randomised
from torch import Tensor

from dgflow import SongUNet
from dgflow.diffusion import mixtures, noise
from dgflow.diffusion.correction_settings import NetworkSettings
from dgflow.diffusion.corrections import NetworkCorrection
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
from dgflow.diffusion.guidance_settings import Boost, DiscriminatorSettings
from dgflow.diffusion.heun import HeunPath, edm_sigmas
from dgflow.diffusion.mixture_specs import GaussianMixture
from dgflow.diffusion.paths import Path, State, walk
from dgflow.diffusion.restart import RestartPath
from dgflow.diffusion.restart_settings import RestartInterval
from dgflow.diffusion.score_model import ScoreModel
from dgflow.diffusion.selection.chains import Chains, places_back
from dgflow.diffusion.selection.rejection import Rule
from dgflow.diffusion.selection.run import Draw, Run, Selected
from dgflow.diffusion.selection.thresholds import Thresholds, log_ratios_along
from dgflow.diffusion.times import per_sample

REAL = GaussianMixture(means=((-1.0,), (1.0,)), stds=(0.3, 0.3), weights=(0.25, 0.75))
MODEL = GaussianMixture(means=((-1.0,), (1.0,)), stds=(0.35, 0.35), weights=(0.6, 0.4))
SIDES = (1, 1, 1)
CPU = torch.device("cpu")
STEPS = 6
EVERY = range(STEPS + 1)
CHURN: dict[str, Any] = {"S_churn": 5.0, "S_min": 0.05, "S_max": 20.0}


def cumulative(mixture: GaussianMixture, values: np.ndarray, sigma: float = 0.0) -> np.ndarray:
    stds = np.hypot(mixture.stds, sigma)
    return norm.cdf(values[..., None], np.ravel(mixture.means), stds) @ np.array(mixture.weights)


class Transport(Path):
    """The probability flow of the model, solved exactly: from one level to the next, quantiles are
    preserved."""

    guidance = ()
    levels = (80.0, 10.0, 3.0, 1.0, 0.5, 0.2, 0.0)
    draws, evaluations = (0,) * STEPS, (1,) * STEPS

    def move(self, state: State, at: Any, class_labels: Any, noise: Any, spread: Any = None) -> State:
        x = [self.down(*row) for row in zip(at, state.x.flatten().tolist(), strict=True)]
        moved = torch.tensor(x, dtype=torch.float64).view(-1, *SIDES)
        return state.moved(moved, [], np.ones((len(moved), 1), np.int64))

    def down(self, position: int, value: float) -> float:
        values, shares = self.table(position + 1)
        return float(np.interp(np.interp(value, *self.table(position)), shares, values))

    @cache  # noqa: B019
    def table(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns values, and the shares of the samples below them."""
        sigma = self.levels[position]
        values = np.linspace(-7.0, 7.0, 8001) * np.hypot(1.0, sigma)
        return values, cumulative(MODEL, values, sigma)


def denoiser(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
    return mixtures.denoised(MODEL, x.flatten(1), sigma).view(x.shape)


def log_ratio(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
    return mixtures.log_ratio(REAL, MODEL, x.flatten(1), sigma)


def normals(index_B: Tensor, step: int, draw: int = noise.CHURN) -> Tensor:
    return noise.standard_normal(7, index_B, SIDES, step=step, draw=draw)


def drawn(index_B: Tensor) -> Draw:
    latents = normals(index_B, 0, noise.LATENT)
    return Draw(latents, index_B, None, lambda step: normals(index_B, step))


def heun_path(**options: Any) -> HeunPath:
    return HeunPath.of(denoiser, edm_sigmas(STEPS), CPU, **options)


def run_of(path: Path, **fields: Any) -> Run:
    def sample(draw: Draw) -> Any:
        return walk(path, draw.latents, class_labels=draw.asked, noise=draw.noise)

    given: dict[str, Any] = {"draw": drawn, "log_ratio": log_ratio, "batch_size": 256, "sides": SIDES}
    return Run(**given | fields, sample=sample, path=path, entries=path.entries, seed=7, device=CPU)


def selected(run: Run, rule: Rule, start: int, stop: int) -> Selected:
    return Chains(run, rule, range(start, stop)).selected()


def distance(x: Tensor) -> Any:
    """Returns the Kolmogorov-Smirnov statistic against the distribution of the real points."""
    return kstest(x.flatten().numpy(), partial(cumulative, REAL))


@pytest.fixture(scope="module")
def bounds() -> Thresholds:
    """Returns bounds of the exact log-ratio and its changes: the maximum over a grid of latents."""
    grid = torch.linspace(-6.0, 6.0, 4001, dtype=torch.float64).view(-1, *SIDES)
    along = log_ratios_along(Transport(), drawn(torch.arange(len(grid)))._replace(latents=grid), log_ratio)
    return Thresholds.of(along.numpy(), 1.0, floor=False)


@pytest.mark.parametrize("rule", ["every step", "the end"])
def test_with_the_exact_ratio_and_its_bounds_samples_have_the_law_of_the_real_ones(bounds, rule):
    first, tested = (bounds.first, EVERY) if rule == "every step" else (bounds.again, EVERY[-1:])
    run = run_of(Transport())
    found = selected(run, Rule(first, bounds.again, tested, backsteps=None), 0, 800)
    assert distance(run.sample(drawn(torch.arange(800))).x).pvalue < 1e-20
    assert distance(found.x).pvalue > 0.05
    assert (found.score_evaluations % STEPS != 0).any() == (rule == "every step")


def test_steps_back_lead_towards_that_law(bounds):
    run = run_of(Transport())
    found = selected(run, Rule(bounds.first, bounds.again, EVERY), 0, 800)
    plain = run.sample(drawn(torch.arange(800))).x
    assert distance(found.x).statistic < 0.5 * distance(plain).statistic


def looks_fake(y: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
    return y.sin().flatten(1).sum(1) - time


def looks_up(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
    assert ((sigma >= 0.05) & (sigma <= 30.0)).all()
    return 0.5 * denoiser(x, sigma, labels) + 0.2


def test_without_tests_it_is_the_sampler_bit_for_bit():
    settings = DiscriminatorSettings(weight=2.0, second_order_weight=0.5, boost=Boost(), tau_max=0.8)
    term = DiscriminatorTerm(looks_fake, settings)
    run = run_of(heun_path(guidance=[term], **CHURN))
    found = selected(run, Rule([], [], range(0)), 5, 69)
    plain = run.sample(drawn(torch.arange(5, 69)))
    assert torch.equal(found.x, plain.x)
    assert set(found.score_evaluations) == {plain.nfe}
    assert set(found.discriminator_evaluations) == {1}  # the log-ratio of the sample
    assert found.guide_evaluations.shape == (64, 1)


def test_a_sample_does_not_depend_on_what_becomes_of_others(monkeypatch):
    """The same indices among others, among others that pass all tests, and alone; guided by networks that act
    at some of the levels, of which one knows no others."""
    monkeypatch.setattr("dgflow.diffusion.selection.chains.PARTS", 4)
    term = DiscriminatorTerm(looks_fake, DiscriminatorSettings(weight=2.0, tau_min=0.1, tau_max=0.8))
    second = ScoreModel(looks_up, sigma_range=(0.05, 30.0))
    away = NetworkCorrection(second, NetworkSettings(weight=1.5, sigma_min=0.3, sigma_max=20.0))
    path = heun_path(guidance=[away, term], **CHURN)
    run, rule = run_of(path), Rule([0.0] * (STEPS + 1), [0.0] * (STEPS + 1), EVERY)

    def kind(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        real = 50.0 * (81.0 / (sigma + 1e-3)).log()  # rises with every step
        return torch.where(labels < 32, log_ratio(x, sigma, labels), real)

    def labelled(index_B: Tensor) -> Draw:
        return drawn(index_B)._replace(asked=index_B)

    first, shifted = selected(run, rule, 0, 48), selected(run, rule, 16, 64)
    mixed = selected(run_of(path, log_ratio=kind, draw=labelled), rule, 0, 48)
    for own, other, others in ((slice(16, 48), slice(0, 32), shifted), (slice(0, 32), slice(0, 32), mixed)):
        for mine, its in zip(first[:6], others[:6], strict=True):
            np.testing.assert_array_equal(np.asarray(mine[own]), np.asarray(its[other]))
    for index in (2, 9):
        alone = selected(run, rule, index, index + 1)
        for mine, its in zip(first[:6], alone[:6], strict=True):
            np.testing.assert_array_equal(np.asarray(mine[index : index + 1]), np.asarray(its))
    assert mixed.score_evaluations[32:].max() == 2 * STEPS - 1 < first.score_evaluations[32:].max()


def test_chains_keep_their_labels_when_they_take_the_places_of_others(monkeypatch):
    monkeypatch.setattr("dgflow.diffusion.selection.chains.PARTS", 6)

    def to_label(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        return per_sample(labels.double(), x).expand_as(x)

    def labelled(index_B: Tensor) -> Draw:
        return drawn(index_B)._replace(labels=index_B % 10, asked=index_B % 10)

    path = HeunPath.of(to_label, edm_sigmas(STEPS), CPU)
    rule = Rule([0.0] * (STEPS + 1), [0.0] * (STEPS + 1), EVERY)
    found = selected(run_of(path, draw=labelled, log_ratio=rolled), rule, 0, 64)
    assert found.labels.tolist() == [index % 10 for index in range(64)]
    torch.testing.assert_close(found.x.flatten(), found.labels.double())
    assert len(set(found.score_evaluations)) > 3


def rolled(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
    """Returns a log-ratio that is below 0 in half of the cases."""
    return -(1e3 * x.flatten()).sin().abs()


def test_a_budget_bounds_what_a_sample_takes_after_its_last_start(bounds, monkeypatch):
    monkeypatch.setattr("dgflow.diffusion.selection.chains.PARTS", 6)
    one_pass = 2 * STEPS - 1
    run, rule = run_of(heun_path()), Rule(bounds.first, bounds.again, EVERY, budget=one_pass + 4)
    chains = Chains(run, rule, range(64))
    found = chains.selected()
    taken = np.zeros(64, int)
    for chain in chains.ended:
        taken[chain.index] = found.score_evaluations[chain.index] - chain.thrown
    assert one_pass <= taken.min() <= taken.max() <= one_pass + 4
    assert sum(chain.resets for chain in chains.ended) > 5


def test_a_step_back_from_a_restart_adds_noise():
    """Noise is added to reach the level above; a test of the same values again would only pass more often."""
    again = RestartInterval(points=3, repeats=3, sigma_min=0.5, sigma_max=2.0)
    path = RestartPath.of(denoiser, edm_sigmas(STEPS), CPU, [again])
    assert len(set(path.levels[4:8])) == 1
    assert places_back(path.levels, 1) == [0, 0, 1, 2, 3, 3, 3, 3, 7, 8]
    assert places_back(path.levels, 2) == [0, 0, 0, 1, 2, 2, 2, 2, 3, 7]
    seen = list[float]()

    def watched(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        seen.extend(x.flatten().tolist())
        return torch.zeros_like(sigma)

    least = [0.3] * len(path.levels)
    found = selected(run_of(path, log_ratio=watched), Rule(least, least, range(len(least))), 0, 8)
    assert len(set(seen)) == len(seen) == found.discriminator_evaluations.sum() > 8 * len(least)


def test_utilisation_is_the_share_of_the_rows_that_networks_are_asked_about(monkeypatch):
    """Also if moves take more evaluations than others."""
    monkeypatch.setattr("dgflow.diffusion.selection.chains.PARTS", 8)
    again = RestartInterval(points=4, repeats=2, sigma_min=0.5, sigma_max=2.0)
    asked = [0]

    def counted(network: Any) -> Any:
        def wrapped(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
            asked[0] += len(x)
            return network(x, sigma, labels)

        return wrapped

    path = RestartPath.of(counted(denoiser), edm_sigmas(STEPS), CPU, [again])
    run, limit = run_of(path, log_ratio=counted(rolled)), [0.0] * len(path.levels)
    found = selected(run, Rule(limit, limit, range(len(limit))), 0, 160)
    needed = found.score_evaluations.sum() + found.discriminator_evaluations.sum()
    assert found.utilisation == pytest.approx(needed / asked[0]) and found.utilisation > 0.7


@pytest.mark.parametrize("rows", [1, 31, 160])
def test_batches_have_one_width_and_few_copies(rows, bounds):
    widths = set[int]()

    def watched(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        widths.add(len(x))
        return log_ratio(x, sigma, labels)

    path = HeunPath.of(
        lambda x, sigma, labels: (widths.add(len(x)), denoiser(x, sigma, labels))[1], edm_sigmas(STEPS), CPU
    )
    found = selected(run_of(path, log_ratio=watched), Rule(bounds.first, bounds.again, EVERY), 0, rows)
    assert widths == {max(1, rows // 32)}
    assert found.utilisation == 1.0 if rows < 64 else 0.8 < found.utilisation < 1.0
    assert selected(run_of(path, batch_size=4), Rule([], [], range(0)), 0, rows).utilisation <= 1.0


def test_a_discriminator_that_never_passes_a_sample_is_an_error_that_names_it(bounds):
    rule = Rule([50.0] * 7, [50.0] * 7, EVERY, max_checks=30)
    with pytest.raises(ValueError, match="within max_checks=30 log-ratios, found sample 3 rejected"):
        selected(run_of(heun_path()), rule, 3, 4)


def test_a_log_ratio_that_is_no_number_is_an_error_that_names_the_sample(bounds):
    run = run_of(heun_path(), log_ratio=lambda x, sigma, labels: torch.full_like(sigma, torch.nan))
    with pytest.raises(FloatingPointError, match="found NaN for sample 0 at noise level 80"):
        selected(run, Rule(bounds.first, bounds.again, EVERY), 0, 4)


def test_thresholds_are_quantiles_between_values_and_not_below_0_with_a_floor():
    along = np.array([[0.0, -2.0, -1.0], [1.0, 0.0, 3.0]])
    assert Thresholds.of(along, 0.75) == ([0.75, 0.0, 2.0], [0.0, 0.0, 2.5])
    assert Thresholds.of(along, 0.75, floor=False) == ([0.75, -0.5, 2.0], [0.0, -1.25, 2.5])


def test_a_networks_own_arithmetic_does_not_see_the_place_of_a_chain_in_its_batch():
    """The network is a U-Net, whose samples differ in the last bits between batches of other sizes."""
    torch.manual_seed(0)
    network = SongUNet(
        model_channels=8, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(4,), dropout=0.0
    )
    module = network.build(image_size=8, channels=1, num_classes=0)
    module.load_state_dict(randomised(module))
    model = network.score_model(module.eval())
    path = HeunPath.of(model.denoiser, edm_sigmas(4), CPU)

    def drawn_images(index_B: Tensor) -> Draw:
        latents = noise.standard_normal(7, index_B, (1, 8, 8), step=0, draw=noise.LATENT)
        return Draw(latents, index_B, None, lambda step: latents)

    def of_image(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        return rolled(x[:, :, :1, :1] / (1 + sigma.square()).sqrt()[:, None, None, None], sigma, labels)

    run = run_of(path, draw=drawn_images, log_ratio=of_image, sides=(1, 8, 8))
    rule = Rule([-0.2] * 5, [-0.2] * 5, range(5))
    one, other = selected(run, rule, 0, 64), selected(run, rule, 24, 88)
    assert len(set(one.score_evaluations)) > 3
    assert torch.equal(one.x[24:], other.x[:40])

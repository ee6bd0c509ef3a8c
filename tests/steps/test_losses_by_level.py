"""LossesByLevel: networks in closed form against quadrature, refusals and warnings."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from inprocess import complete
from steps.identities import DISC, ENCODED, FAKES, REAL, SCORE

from dgflow import (
    ClosedForm,
    GaussianMixture,
    LossesByLevel,
    MixturePoints,
    MixtureRatio,
    MixtureScore,
    SongUNet,
    TrainScore,
)
from dgflow.diffusion import mixtures
from dgflow.engine.execute import result_of
from dgflow.engine.plan import plan
from dgflow.specs.figures import Lines
from dgflow.store.open import open_store
from dgflow.testing.smoke import smoke

DATA = GaussianMixture(means=((-1.5, 0.0), (1.5, 0.0)), stds=(0.5, 0.5), weights=(0.5, 0.5))
WRONG = GaussianMixture(means=((-1.2, 0.6), (1.8, -0.9)), stds=(0.6, 0.6), weights=(0.6, 0.4))
SCORED = ClosedForm(network=MixtureScore(mixture=WRONG)).weights()
EXACT = ClosedForm(network=MixtureRatio(real=DATA, model=WRONG)).weights()
SMALL = TrainScore(real=REAL[:100], network=SongUNet(model_channels=8, channel_mult=(1,), num_blocks=1))
LOW, HIGH, LEVELS = 0.2, 20.0, 6
INNER = 12  # noise levels of the quadrature within each range
Averages = dict[str, float]


def losses(rows: int = 1_200, **fields: Any) -> LossesByLevel:
    given = {
        "score": SCORED,
        "discriminators": {"exact": EXACT},
        "real": MixturePoints(mixture=DATA, seed=4)[:rows],
        "fake": MixturePoints(mixture=WRONG, seed=5)[:rows],
        "sigma_min": LOW,
        "sigma_max": HIGH,
        "levels": LEVELS,
    }
    return LossesByLevel(**given | fields)


def exact(sigma: float) -> Averages:
    """Returns the losses at a noise level, by quadrature over the noisy densities."""
    at, of = {}, {}
    for name, mixture in (("real", DATA), ("fake", WRONG)):
        x, share = mixtures.nodes(mixture, sigma, 24)
        at[name], of[name] = x, share
    level = {name: torch.full((len(x),), sigma, dtype=torch.float64) for name, x in at.items()}
    ratio = {name: mixtures.log_ratio(DATA, WRONG, at[name], level[name]) for name in at}
    x, s = at["real"], level["real"]
    # E|x0 - D|^2 = E|x0 - E[x0 | x]|^2 + E|E[x0 | x] - D|^2, and the first is tr Cov(x0 | x) = sigma^2 (d +
    # sigma^2 Laplacian of log p), by Tweedie's formula of second order.
    spread = s**2 * (2 + s**2 * mixtures.laplacian(DATA, x, s))
    gap = (mixtures.denoised(DATA, x, s) - mixtures.denoised(WRONG, x, s)).square().sum(1)
    return {
        "score": float((of["real"] * (spread + gap)).sum()) / sigma**2 / 2,
        "bce real": float((of["real"] * F.softplus(-ratio["real"])).sum()),
        "bce fake": float((of["fake"] * F.softplus(ratio["fake"])).sum()),
        "lsif real": -float((of["real"] * ratio["real"].exp()).sum()),
        "lsif fake": float((of["fake"] * 0.5 * (2 * ratio["fake"]).exp()).sum()),
    }


@pytest.fixture(scope="module")
def by_range() -> list[Averages]:
    """Returns the exact losses, averaged over log sigma within each range."""
    width = math.log(HIGH / LOW) / LEVELS
    middles = [
        [LOW * math.exp(width * (number + (inner + 0.5) / INNER)) for inner in range(INNER)]
        for number in range(LEVELS)
    ]
    found = [[exact(sigma) for sigma in each] for each in middles]
    return [{name: float(np.mean([at[name] for at in each])) for name in each[0]} for each in found]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_store(str(tmp_path_factory.mktemp("losses") / "root"))


@pytest.fixture(scope="module")
def content(store) -> dict[str, Any]:
    complete(step := losses(), store)
    return json.loads(result_of(step, store))


def test_losses_of_exact_networks_are_those_of_quadrature_within_their_errors(content, by_range):
    guide = content["discriminators"]["exact"]
    measured = {"score": content["score_matching"]["real"]}
    measured |= {f"{kind} {on}": guide[kind][on] for kind in ("bce", "lsif") for on in ("real", "fake")}
    for name, values in measured.items():
        for found, error, level in zip(values["mean"], values["error"], by_range, strict=True):
            assert abs(found - level[name]) < 4.5 * error < 0.3 + abs(level[name]), name


def test_shares_are_the_integrals_of_the_losses_as_trained(content, by_range):
    guide = content["discriminators"]["exact"]
    exact = {
        "score": np.cumsum([level["score"] for level in by_range]),
        "bce": np.cumsum([(level["bce real"] + level["bce fake"]) / 2 for level in by_range]),
        "lsif": np.cumsum([(level["lsif real"] + level["lsif fake"]) / 2 for level in by_range]),
    }
    found = {"score": content["score_matching"], **guide}
    for name, whole in exact.items():
        share, error = (np.array(found[name][key]) for key in ("share", "share_error"))
        assert share[-1] == pytest.approx(1.0) and error[-1] < 1e-12
        assert (np.abs(share - whole / whole[-1])[:-1] < 4.5 * error[:-1]).all()
    # As in figures 11 and 17b: cross-entropy lies at high noise, score matching at low noise.
    assert found["bce"]["share"][2] < found["score"]["share"][2] - 0.2
    assert content["sigma"] == pytest.approx(np.geomspace(LOW, HIGH, LEVELS + 1).tolist())


def test_the_error_of_a_share_is_its_spread_over_data(store):
    found = []
    for seed in range(16):
        real, fake = MixturePoints(mixture=DATA, seed=seed), MixturePoints(mixture=WRONG, seed=100 + seed)
        complete(step := losses(real=real[:40], fake=fake[:40], seed=seed), store)
        found.append(json.loads(result_of(step, store))["discriminators"]["exact"]["bce"])
    spread = np.std([each["share"] for each in found], axis=0, ddof=1)[:-1]
    told = np.mean([each["share_error"] for each in found], axis=0)[:-1]
    assert spread.mean() == pytest.approx(told.mean(), rel=0.35)  # 16 seeds: 18 % per level


def test_its_figures_are_the_shares_and_the_losses_level_by_level(store, content):
    step = losses()
    shares, cross_entropy, noise = step.figures(json.dumps(content).encode())
    assert isinstance(shares, Lines) and isinstance(cross_entropy, Lines) and isinstance(noise, Lines)
    assert [curve.label for curve in shares.curves] == ["score matching", "cross-entropy", "LSIF"]
    assert all(len(curve.x) == LEVELS + 1 and curve.y[0] == 0 for curve in shares.curves)
    assert [curve.label for curve in cross_entropy.curves] == ["real images", "fake images"]
    assert cross_entropy.level == (math.log(2), "chance: log 2") and shares.log_x


def test_the_plan_counts_logits_of_both_kinds_and_the_score_of_real_images(tmp_path):
    step = losses(rows=50, discriminators={"one": EXACT, "two": EXACT})
    state = plan(step, open_store(str(tmp_path)))[-1]
    assert [(each.network, each.use, each.times) for each in state.work] == [
        (SCORED.step, "forward", 50 * LEVELS),
        (EXACT.step, "forward", 100 * LEVELS),
        (EXACT.step, "forward", 100 * LEVELS),
    ]


def of_trained(**fields: Any) -> LossesByLevel:
    given = {"discriminators": {"d": DISC.last()}, "real": REAL[90:100], "fake": FAKES[90:110]}
    return LossesByLevel(**{"score": SMALL.last(), **given} | fields)


def test_noise_levels_are_by_default_those_that_the_discriminator_was_trained_on():
    assert of_trained().span == (0.0447, 80.0)
    published = DISC.model_copy(update={"times": "importance"}).last()
    low, high = of_trained(discriminators={"d": published}).span
    # tau from 1e-5 to 1, narrowed to the range of EDM's networks, all levels from 0 to infinity.
    assert (low, high) == pytest.approx((1.0005e-3, 152.17), rel=1e-3)


def test_samples_that_a_network_was_trained_on_are_warned_of():
    assert of_trained().cautions() == []
    (line,) = of_trained(real=REAL[80:100]).cautions()
    assert line.startswith("real: train-score was trained on 10 of the 20 samples")
    (line,) = of_trained(fake=FAKES[:200]).cautions()
    assert line.startswith("fake: train-discriminator was trained on 90 of the 200 samples")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (dict(discriminators={}), "discriminators: expected one or more, by name, found none"),
        (dict(real=REAL[:1]), "real: expected two images or more, whose spread gives the errors, found 1"),
        (dict(fake=ENCODED[:9]), "fake: expected samples of the form of the real ones, 1 channels of 8"),
        (dict(real=ENCODED[:9]), "score: expected a score network for the real ones' 18 channels"),
        (dict(discriminators={"d": SCORE.last()}), "expected a TrainDiscriminator or a Pretrained"),
    ],
)
def test_losses_that_cannot_be_measured_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        of_trained(**fields)


def test_a_range_that_the_score_network_does_not_know_is_refused():
    with pytest.raises(
        ValueError, match="expected noise levels that the score network was trained for between"
    ):
        _ = losses(sigma_min=5.0, sigma_max=5.0).span


def test_its_smoke_run_reads_what_the_toys_make():
    toy = smoke(of_trained(), "memory://smoke").target
    assert isinstance(toy, LossesByLevel) and toy.real.rows >= 2

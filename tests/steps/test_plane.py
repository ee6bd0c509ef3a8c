"""The plane: Generate, TrainDiscriminator and guided Generate on mixtures, against exact numbers."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from inprocess import complete

from dgflow import (
    BestOf,
    Boost,
    ClosedForm,
    ComparePlane,
    DiscriminatorGuidance,
    GaussianMixture,
    Generate,
    Heun,
    MixturePoints,
    MixtureRatio,
    MixtureScore,
    Perceptron,
    TrainDiscriminator,
)
from dgflow.engine.plan import plan
from dgflow.engine.root import Root
from dgflow.specs.figures import Lines, PlanePlot, Table
from dgflow.specs.step import Slice, Weights
from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store

DATA = GaussianMixture(means=((-1.5, 0.0), (1.5, 0.0)), stds=(0.5, 0.5), weights=(0.5, 0.5))
WRONG = GaussianMixture(means=((-1.2, 0.6), (1.8, -0.9)), stds=(0.6, 0.6), weights=(0.6, 0.4))
SCORE = ClosedForm(network=MixtureScore(mixture=WRONG)).weights()
EXACT = ClosedForm(network=MixtureRatio(real=DATA, model=WRONG)).weights()
HEUN = Heun(steps=14, sigma_min=0.02, sigma_max=20)
COUNT = 800


def samples(seed: int, *guidance: DiscriminatorGuidance, count: int = COUNT, **fields: Any) -> Slice:
    step = Generate(score=SCORE, sampler=HEUN, guidance=guidance, seed=seed, shard_size=500, **fields)
    return step[:count]


def by(discriminator: Weights, weight: float = 1.0, **fields: Any) -> DiscriminatorGuidance:
    fields = {"tau_min": 0.0} | fields
    return DiscriminatorGuidance(
        discriminator=discriminator, weight=weight, second_order_weight=weight, **fields
    )


def train(**fields: Any) -> TrainDiscriminator:
    fields = {"epochs": 10} | fields
    return TrainDiscriminator(
        real=MixturePoints(mixture=DATA)[:3_000],
        fake=samples(1, count=3_000),
        network=Perceptron(width=48, layers=3),
        batch_size=600,
        learning_rate=3e-3,
        sigma_min=0.02,
        sigma_max=20.0,
        **fields,
    )


@dataclass
class Made:
    """A comparison in a root."""

    step: ComparePlane
    store: ObjectStore
    content: bytes

    @property
    def plain(self) -> dict[str, Any]:
        return json.loads(self.content)

    def points(self, name: str) -> np.ndarray:
        """Returns the samples [N, 2] of the first slice of an arm."""
        bound = plan(self.step, self.store)[-1].bound
        assert bound is not None
        return bound.rows(f"arms.{name}.0", ["latent"])["latent"][:, :, 0, 0].astype(float)


def made(step: ComparePlane, store: ObjectStore) -> Made:
    complete(step, store)
    state, steps = plan(step, store)[-1], Root(store).step_store(step)
    return Made(step, store, steps.read(steps.receipt(state.done[state.wanted[0]])))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    return open_store(str(tmp_path_factory.mktemp("plane")))


@pytest.fixture(scope="module")
def exact(store: ObjectStore) -> Made:
    arms = {"unguided": (samples(2),), "exact": (samples(2, by(EXACT)), samples(3, by(EXACT)))}
    return made(ComparePlane(data=DATA, arms=arms, weights=(0.0, 0.75, 1.0, 1.25, 2.0)), store)


@pytest.fixture(scope="module")
def learned(store: ObjectStore) -> Made:
    arms = {"unguided": (samples(2),), "bce": (samples(2, by(train().best())),)}
    return made(ComparePlane(data=DATA, arms=arms, weights=(0.0, 1.0)), store)


def test_exact_guidance_at_weight_1_makes_the_wrong_model_right(exact):
    arms, guide = exact.plain["arms"], exact.plain["guides"]["exact"]
    # Quadrature with 8 nodes per coordinate is correct to 1e-3 on log-densities that differ by 1. For equal
    # ones the errors are the start from N(0, 20^2), of order (1.6 / 20)^4, and the steps of the flow.
    assert abs(arms["exact"]["kl"]["mean"]) < 1e-3
    assert arms["unguided"]["kl"]["mean"] == pytest.approx(0.9825, abs=5e-4)  # 64 nodes give 0.98248
    assert guide["kl"][0] == pytest.approx(arms["unguided"]["kl"]["mean"], abs=2e-3)
    weights = exact.step.weights
    assert weights[min(range(len(weights)), key=lambda i: guide["kl"][i])] == 1.0
    assert guide["best_weight"] == pytest.approx(1.0, abs=1e-6)


def test_gain_of_the_exact_ratio_is_the_whole_kl_times_2_w_less_w_squared(exact):
    guide, sigmas = exact.plain["guides"]["exact"], exact.plain["sigma"]
    assert sigmas == [0.02, 20.0]
    # Theorem 2: the integral of the score's error from 0.02 to 20 is the fall of KL between these levels; at
    # 20 it is below 1e-4. Trapezoidal sums over 33 levels and 12 nodes per coordinate are correct to 1e-3.
    whole = exact.plain["kl_model"]
    for weight, gain in zip(exact.step.weights, guide["gain"], strict=True):
        assert gain == pytest.approx((2 * weight - weight**2) * whole, abs=1e-3)


def test_estimated_gain_agrees_with_the_exact_one_within_its_error(exact, learned):
    for comparison, name in ((exact, "exact"), (learned, "bce")):
        guide = comparison.plain["guides"][name]
        for gain, found, error in zip(
            guide["gain"], guide["estimate"]["gain"], guide["estimate"]["error"], strict=True
        ):
            assert abs(found - gain) <= 4 * error


def test_samples_guided_by_the_exact_ratio_are_those_of_the_data(exact):
    points, wrong = exact.points("exact"), exact.points("unguided")
    # Moments of the data: mean 0; per coordinate E x^2 = 1.5^2 + 0.25 and E y^2 = 0.25; half of the points on
    # each side. Five standard errors.
    error = 5 / math.sqrt(COUNT)
    assert abs(points[:, 0].mean()) < error * math.sqrt(2.5)
    assert abs(points[:, 1].mean()) < error * 0.5
    assert np.square(points[:, 1]).mean() == pytest.approx(0.25, abs=error * 0.25 * math.sqrt(2) + 0.01)
    assert (points[:, 0] > 0).mean() == pytest.approx(0.5, abs=error * 0.5)
    assert np.abs(wrong[:, 1]).mean() > 1.3 * np.abs(points[:, 1]).mean()
    # Under equal distributions the energy distance is of order E|X - X'| / N = 2.2 / 800.
    energy = exact.plain["arms"]["exact"]["energy"]
    assert max(map(abs, energy["per_seed"])) < 0.01 < exact.plain["arms"]["unguided"]["energy"]["mean"]
    assert energy["spread"] == pytest.approx(float(np.std(energy["per_seed"], ddof=1)))


def test_a_learned_log_ratio_lowers_kl_and_its_samples_energy_distance(learned):
    arms, guide = learned.plain["arms"], learned.plain["guides"]["bce"]
    assert arms["bce"]["kl"]["mean"] < 0.5 * arms["unguided"]["kl"]["mean"]
    assert arms["bce"]["energy"]["mean"] < 0.5 * arms["unguided"]["energy"]["mean"]
    assert guide["error"] < 0.5 * guide["correction"]
    # c - g|^2 = |c|^2 - 2 c.g + |g|^2, so Gain at weight 1 is the squared correction minus the squared error.
    assert guide["gain"][1] == pytest.approx(guide["correction"] - guide["error"], rel=1e-9)
    levels = [level for level in guide["levels"] if 0.1 < level["sigma"] < 1]
    assert min(level["correlation"] for level in levels) > 0.8


def test_a_window_limits_gain_and_guidance_to_its_noise_levels(store, exact):
    # tau 0.1 to 0.5 is sigma 0.34 to 3.4.
    arm = (samples(2, by(EXACT, tau_min=0.1, tau_max=0.5), count=500),)
    found = made(ComparePlane(data=DATA, arms={"some": arm}, weights=(1.0,)), store).plain
    guide, whole = found["guides"]["some"], exact.plain["guides"]["exact"]
    sigmas = [level["sigma"] for level in guide["levels"]]
    assert min(sigmas) == pytest.approx(math.sqrt(math.expm1(0.01 + 0.0995)), rel=1e-6)
    assert 0.3 < guide["gain"][0] < whole["gain"][2]
    assert 1e-3 < found["arms"]["some"]["kl"]["mean"] < 0.5 * exact.plain["kl_model"]


def test_points_are_a_function_of_seed_and_index(store):
    step = MixturePoints(mixture=DATA, shard_size=100)
    rows = step.shard_builder(None)  # type: ignore[arg-type]
    whole, part = rows(0, 100), rows(37, 50)
    assert np.array_equal(whole["latent"][37:50], part["latent"]) and part["index"].tolist() == [
        *range(37, 50)
    ]
    assert whole["latent"].shape == (100, 2, 1, 1) and set(whole["label"]) == {-1}


def test_the_arms_and_the_figures_of_a_comparison(learned):
    arms = learned.step.compared(learned.content)
    assert list(arms) == ["unguided", "bce"]
    assert all(
        set(arm[name]) >= {"mean", "spread", "per_seed"}
        for arm in arms.values()
        for name in ("kl", "energy", "gain")
    )
    figures = learned.step.figures(learned.content)
    table = figures[0]
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == ["unguided", "bce"]
    assert table.rows[0][1] == f"{learned.plain['kl_model']:.4f}"
    clouds = {figure.title: figure for figure in figures if isinstance(figure, PlanePlot) and figure.clouds}
    assert set(clouds) == {"The data", "Samples: unguided", "Samples: bce"}
    assert len(clouds["Samples: bce"].clouds[0].points) == 500
    fields = [figure for figure in figures if isinstance(figure, PlanePlot) and figure.arrows]
    assert [figure.title.split(", ")[1] for figure in fields[1:]] == ["exact", "bce"]
    assert fields[1].arrow_scale == fields[2].arrow_scale
    curve = next(figure for figure in figures if isinstance(figure, Lines) and figure.title.startswith("KL"))
    assert curve.mark == (1.0, "weight 1") and list(curve.curves[0].x) == [0.0, 1.0]
    gains = [each for each in figures if isinstance(each, Lines) and each.title.startswith("Gain")]
    assert [[each.group for each in figure.curves] for figure in gains] == [["bce", "bce"]] * 2


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (dict(arms={}), "one or more arms"),
        (
            dict(arms={"a": (MixturePoints(mixture=DATA)[:100],)}),
            "samples of Generate with the score of a Mix",
        ),
        (dict(arms={"a": (samples(2), samples(2))}), "without a sample in common"),
        (dict(arms={"a": (samples(2), samples(3, by(EXACT)))}), "differ only in their seed"),
        (dict(arms={"a": (samples(2, by(EXACT, boost=Boost())),)}), "no boost"),
        (dict(arms={"a": (samples(2, by(EXACT), by(EXACT)),)}), "one discriminator"),
        (dict(arms={"a": (samples(2, selection=BestOf(discriminator=EXACT)),)}), "selection.*CompareLaws"),
        (dict(data=GaussianMixture(means=((0.0,),), stds=(1.0,), weights=(1.0,))), "in the plane, found 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        ComparePlane(**({"data": DATA, "arms": {"a": (samples(2),)}} | fields))

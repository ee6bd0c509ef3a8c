"""CompareLaws: points in the plane against the distribution of a mixture, whose numbers are known."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from inprocess import complete
from steps.identities import REAL
from steps.shipped import recipe

import dgflow as dg
from dgflow.engine.execute import result_of
from dgflow.specs.figures import PlanePlot, Table
from dgflow.steps.plane.laws_values import law_values, true_error
from dgflow.store.open import open_store
from dgflow.testing.smoke import smoke

DATA = dg.GaussianMixture(means=((-3.0, 0.0), (3.0, 0.0)), stds=(0.5, 0.5), weights=(0.25, 0.75))
EVEN = DATA.model_copy(update={"weights": (0.5, 0.5)})
ROUND = dg.GaussianMixture(means=((0.0, 0.0),), stds=(1.0,), weights=(1.0,))


def points(mixture: dg.GaussianMixture, seed: int = 0, count: int = 400):
    return dg.MixturePoints(mixture=mixture, seed=seed, shard_size=500)[:count]


def test_points_at_one_place_have_the_log_density_and_the_mode_of_that_place():
    at = np.tile([[0.6, 0.8]], (10, 1))
    # A round Gaussian's log-density is -log(2 pi) - |x|^2 / 2, of which the mean of |x|^2 / 2 is 1.
    assert law_values(ROUND, at)["log_density"] == pytest.approx(1 - 0.5, rel=1e-12)
    assert law_values(ROUND, at)["modes"] == 0.0
    # 2 E|x - Y| - 0 - E|Y - Y'| with |x| = 1: Rice's mean 1.5485724605511453, and sqrt(pi) of two Gaussians.
    assert law_values(ROUND, at)["energy"] == pytest.approx(2 * 1.5485724605511453 - math.sqrt(math.pi))
    assert law_values(DATA, np.tile([[-3.0, 0.0]], (10, 1)))["modes"] == pytest.approx(0.75)


def test_the_error_of_the_energy_distance_falls_with_the_number_of_points():
    """The error is of order 1 / N for points of the mixture's own distribution."""
    assert 2 < true_error(DATA, 100) / true_error(DATA, 400) < 8


def test_true_points_have_the_law_and_others_are_many_errors_away(tmp_path):
    arms = {
        "true": tuple(points(DATA, seed) for seed in (1, 2, 3)),
        "even": tuple(points(EVEN, seed) for seed in (1, 2, 3)),
    }
    step, store = dg.CompareLaws(data=DATA, arms=arms), open_store(str(tmp_path))
    complete(step, store)
    content = result_of(step, store)
    found = step.compared(content)
    assert list(found) == ["true", "even"] and found["true"]["n"] == 400
    assert abs(found["true"]["deviation"]["mean"]) < 3 < 10 < found["even"]["deviation"]["mean"]
    error = 4 * math.sqrt(0.25 * 0.75 / 1200)
    assert found["even"]["modes"]["mean"] == pytest.approx(0.25, abs=error)
    assert found["true"]["modes"]["mean"] < error
    # The rarer mode's log-density is log(1/3) below the other's, and it has 1/4 more of the points.
    assert found["even"]["log_density"]["mean"] == pytest.approx(-math.log(3) / 4, abs=0.1)
    assert set(step.quantities) < set(found["true"])
    assert found["true"]["evaluations"]["mean"] == 0.0
    table, *clouds = step.figures(content)
    assert isinstance(table, Table) and table.marked == [0]
    assert [row[0] for row in table.rows] == ["true", "even"]
    assert [cloud.title for cloud in clouds if isinstance(cloud, PlanePlot)] == [
        "Samples: true",
        "Samples: even",
    ]
    assert len(json.loads(content)["points"]["true"]) == 400


def test_of_the_workbench_in_the_plane_the_unbiased_arms_by_the_exact_log_ratio_have_the_law(tmp_path):
    whole: Any = recipe("plane_workbench")(samples=300, seeds=(1,))
    law, other = {"exact", "Restart, exact"}, {"unguided", "away from a blurred model", "best of 4"}
    arms = {name: whole.arms[name] for name in sorted(law | other)}
    step, store = dg.CompareLaws(data=whole.data, arms=arms), open_store(str(tmp_path))
    complete(step, store)
    found = step.compared(result_of(step, store))
    assert {name for name, arm in found.items() if abs(arm["deviation"]["mean"]) < 4} == law
    evaluations = {name: arm["evaluations"]["mean"] for name, arm in found.items()}
    assert evaluations["unguided"] == 47 and evaluations["best of 4"] == 4 * 47


@pytest.mark.slow
def test_the_workbench_in_the_plane_runs_the_whole_way_at_toy_size(tmp_path):
    step = smoke(recipe("plane_workbench")(), str(tmp_path)).target
    assert isinstance(step, dg.CompareLaws)
    store = open_store(str(tmp_path))
    complete(step, store)
    found = step.compared(result_of(step, store))
    plain, *refined = (arm["energy"]["mean"] for arm in found.values())
    assert "bce+gradient" in found and plain not in refined and all(map(math.isfinite, refined))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (dict(arms={}), "one or more arms"),
        (dict(arms={"a": (REAL[:100],)}), "arm 'a': expected points of the plane, .* found .* of 1 channels"),
        (dict(arms={"a": (points(DATA), points(DATA))}), "without a sample in common"),
        (dict(arms={"a": (points(DATA, count=1),)}), "two or more samples"),
        (dict(data=dg.GaussianMixture(means=((0.0,),), stds=(1.0,), weights=(1.0,))), "found 1 coordinates"),
    ],
)
def test_what_has_no_law_in_the_plane_is_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        dg.CompareLaws(**({"data": DATA, "arms": {"a": (points(DATA),)}} | fields))


def test_slices_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="arm 'a': expected slices of one length.* found 400, 4 samples"):
        dg.CompareLaws(data=DATA, arms={"a": (points(DATA, 1), points(DATA, 2, count=4))})

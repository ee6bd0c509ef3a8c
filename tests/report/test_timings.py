"""Seconds per sample of arms, from the receipts of their samples."""

import re
from collections.abc import Iterable
from typing import Any

import pytest
from report.fake_root import UNFINISHED, fill, new_store, recipe

import dgflow as dg
from dgflow.report.summary import as_json, summarise, table


def with_cost(source: str, leave_out: Iterable[tuple[str, int]] = (), **fields: Any):
    """Returns a recipe with the cost of its arms beside the table, and that step."""
    evaluation, store = recipe(source=source).model_copy(update=fields), new_store()
    cost = dg.Cost(arms=evaluation.arms)
    target = evaluation.model_copy(update={"beside": (cost.result(),)})
    fill(target, store, leave_out=leave_out)
    return summarise(target, store), cost


def test_it_is_the_seconds_of_all_shards_over_their_samples(source):
    summary, cost = with_cost(source)
    found = as_json(summary)["steps"][cost.name]["seconds_per_sample"]
    expected = (2.0 + 3.0) / 200  # two shards of 100 samples, for every seed
    assert found == pytest.approx({"unguided": expected, "guided": expected})
    assert re.search(r"^guided +0\.025 +cpu$", table(summary), flags=re.MULTILINE)


def test_an_arm_without_all_of_its_samples_has_none(source):
    summary, cost = with_cost(source, [(UNFINISHED, 1)])
    assert set(as_json(summary)["steps"][cost.name]["seconds_per_sample"]) == {"unguided"}


def test_the_steps_that_make_a_sample_one_after_the_other_add_up(source):
    images = recipe(source=source).arms["unguided"][0]
    chosen = dg.OfClasses(images=images, classes=(0, 1), count=40)[:40]
    summary, cost = with_cost(source, arms={"unguided": (chosen,)})
    (found,) = as_json(summary)["steps"][cost.name]["seconds_per_sample"].values()
    assert found == pytest.approx(2.0 / 40 + (2.0 + 3.0) / 200)


def test_without_the_cost_of_its_arms_a_recipe_has_no_times(finished):
    summary = summarise(*finished)
    assert "Seconds per sample" not in table(summary)
    assert not any("seconds_per_sample" in step for step in as_json(summary)["steps"].values())

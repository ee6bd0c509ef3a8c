"""`plan` explains the differences from the nearest existing step, by arms, in the width of the terminal."""

import json
import os
import subprocess
import sys

import pytest
from pseudo_terminal import shown
from report.fake_root import fill, new_store, recipe

import dgflow as dg
from dgflow.engine.plan import plan
from dgflow.estimate.estimates import Costs
from dgflow.report.arms import SHARED, named
from dgflow.report.plan_text import plan_json, plan_table


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Returns a root with the finished recipe, and a function that writes the recipe with another source of
    images."""
    source = str(tmp_path_factory.mktemp("reasons") / "digits.npz")
    store = new_store()
    fill(recipe(source=source), store)
    return source, store


def guided(target: dg.Evaluate, **guidance) -> dg.Evaluate:
    """Returns the recipe with other settings of its guided arm's discriminator."""
    parts = []
    for part in target.arms["guided"]:
        assert isinstance(part.step, dg.Generate)
        (term,) = part.step.guidance
        changed = part.step.model_copy(update={"guidance": (term.model_copy(update=guidance),)})
        parts.append(changed[part.start : part.stop])
    return target.model_copy(update={"arms": target.arms | {"guided": tuple(parts)}})


def changes(target: dg.Evaluate, store) -> dict[str, list[str]]:
    """Returns by title the changes of the new steps."""
    return {each.step.title: list(map(str, each.changes)) for each in plan(target, store) if each.changes}


def test_another_weight_is_the_one_change_of_each_guided_step(filled):
    source, store = filled
    target = guided(recipe(source=source), weight=1.0)
    found = changes(target, store)
    assert set(map(tuple, found.values())) == {("guidance[0].weight 2.0 -> 1.0",)}
    assert len(found) == 3
    lines = plan_table(plan(target, store), store).splitlines()
    assert sum(line.strip() == "guidance[0].weight 2.0 -> 1.0" for line in lines) == 3
    steps = plan_json(plan(target, store), store)["steps"]
    reasons = {step["reason"] for step in steps if step["title"].startswith("generate seed 101, guided")}
    assert reasons == {"differs from the most similar step: guidance[0].weight 2.0 -> 1.0"}


def test_a_term_that_is_added_counts_as_all_of_its_fields(filled):
    """Two changed fields are nearer than a whole term, although the term is one line of JSON."""
    source, store = filled
    found = changes(guided(recipe(source=source), weight=1.0, second_order_weight=1.0), store)
    assert set(map(tuple, found.values())) == {
        ("guidance[0].weight 2.0 -> 1.0", "guidance[0].second_order_weight 0.0 -> 1.0")
    }
    boosted = changes(guided(recipe(source=source), boost=dg.Boost()), store)
    assert set(map(tuple, boosted.values())) == {("guidance[0].boost None -> Boost",)}


def test_a_step_behind_an_input_differs_by_its_own_fields(tmp_path):
    """For a sampler of a network that was trained at another rate, the rate is shown, and not two
    fingerprints."""
    source, store = str(tmp_path / "digits.npz"), new_store()
    fill(recipe(source=source), store)
    first = recipe(source=source).arms["unguided"][0].step
    assert isinstance(first, dg.Generate) and isinstance(first.score.step, dg.TrainScore)

    score = first.score.step

    def other(rate: float, seed: int) -> dg.Evaluate:
        trained = score.model_copy(update={"learning_rate": rate})
        sampler = first.model_copy(update={"score": trained.last(), "shard_size": 50, "seed": seed})
        return recipe(source=source).model_copy(update={"arms": {"unguided": (sampler[:200],)}})

    assert changes(other(0.5, 1), store)["train-score"] == ["learning_rate 0.001 -> 0.5"]
    fill(other(0.5, 1), store)
    fill(other(0.25, 1), store, leave_out=[("generate seed 1", number) for number in range(4)])
    found = changes(other(0.25, 7), store)
    assert found["generate seed 7"] == ["seed 1 -> 7"]  # the nearest step has a record but no parts
    fill(other(0.125, 7), store, leave_out=[("generate seed 7", number) for number in range(4)])
    found = changes(other(0.125, 8), store)
    assert found == {"generate seed 8": ["seed 7 -> 8"]}


def test_the_fields_of_an_input_are_named_by_their_path(tmp_path):
    source, store = str(tmp_path / "digits.npz"), new_store()
    fill(recipe(source=source), store)
    first = recipe(source=source).arms["unguided"][0].step
    assert isinstance(first, dg.Generate) and isinstance(first.score.step, dg.TrainScore)
    trained = first.score.step.model_copy(update={"learning_rate": 0.5})
    complete = dg.Evaluate(
        arms={"unguided": (first.model_copy(update={"score": trained.last()})[:200],)},
        reference=recipe(source=source).reference,
        features=recipe(source=source).features,
    )
    fill(complete, store, leave_out=[("generate seed 101", number) for number in range(2)])
    slice_of = complete.arms["unguided"][0].step.model_copy(update={"score": trained.epoch(3)})
    target = complete.model_copy(update={"arms": {"unguided": (slice_of[:200],)}})
    assert changes(target, store)["generate seed 101"] == ['score.which "last" -> "epoch:3"']
    fill(target, store, leave_out=[("generate seed 101", number) for number in range(2)])
    store.delete(f"{complete.arms['unguided'][0].step.name}/step.json")
    store.delete(f"{slice_of.name}/step.json")
    found = changes(complete, store)
    assert found["generate seed 101"] == ["score.learning_rate 0.001 -> 0.5"]


def test_steps_are_grouped_by_arm_and_named_by_seed(filled):
    source, store = filled
    plans = plan(recipe(source=source, discriminators=2), store)
    places = named(plans)
    assert sorted(place.number for place in places) == list(range(len(plans)))
    groups = list(dict.fromkeys(place.group for place in places))
    assert groups == [SHARED, "arm unguided", "arm guided", "arm guided-2", "floor", ""]
    unguided = [place.label for place in places if place.group == "arm unguided"]
    assert unguided == [
        f"{kind} seed {seed}" for seed in (101, 102, 103) for kind in ("generate", "features", "measure")
    ]
    second = [place.label for place in places if place.group == "arm guided-2"]
    assert second[0] == "train-discriminator seed 1" and second[1:] == unguided
    assert not any("guided by" in place.label for place in places)
    steps = plan_json(plans, store)["steps"]
    assert [step["name"] for step in steps] == [each.step.name for each in plans]  # in execution order
    assert {(step["group"], step["label"]) for step in steps} == {
        (place.group, place.label) for place in places
    }


def test_a_recipe_without_arms_is_one_group(filled):
    source, store = filled
    part = recipe(source=source).arms["guided"][0]
    assert [place.label for place in named(plan(part, store))][
        -1
    ] == "generate seed 101, guided by discriminator"


@pytest.mark.parametrize("columns", [80, 100, 120])
@pytest.mark.parametrize("costs", [None, Costs("h100", "35% of its peak, " * 10, {}, price=2.5)])
def test_the_table_fits_the_terminal_and_no_word_is_cut(filled, columns, costs, monkeypatch):
    source, store = filled
    monkeypatch.setattr("dgflow.report.plan_text.terminal_width", lambda: columns)
    target = guided(recipe(source=source, discriminators=2), weight=1.0)
    table = plan_table(plan(target, store), store, costs)
    assert max(map(len, table.splitlines())) <= columns
    words = set(table.replace("-", " ").split())
    assert {"discriminator", "statistics", "features", "guided", "arm"} <= words
    names = {each.step.name for each in plan(target, store)}
    assert costs is not None or all(name in table for name in names)


def test_without_a_terminal_lines_have_a_width_of_their_own(filled, monkeypatch):
    source, store = filled
    monkeypatch.setenv("COLUMNS", "80")  # an inherited variable says nothing about a pipe
    table = plan_table(plan(recipe(source=source, discriminators=2), store), store)
    assert 80 < max(map(len, table.splitlines())) <= 110


def test_a_real_terminal_is_asked_for_its_width(tmp_path):
    program = (
        "from report.test_plan_costs import call, cifar; import sys;"
        f"sys.exit(call('plan', '--root', {str(tmp_path / 'root')!r}))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    processes = []
    text = shown(
        lambda terminal: processes.append(
            subprocess.Popen([sys.executable, "-c", program], stdout=terminal, env=environment)
        )
    )
    assert processes[0].wait() == 0
    lines = text.splitlines()
    assert 60 < max(map(len, lines)) <= 80 and any("arm EDM-G++" in line for line in lines)


def test_json_of_a_plan_is_plain(filled):
    source, store = filled
    found = plan_json(plan(guided(recipe(source=source), weight=1.0), store), store)
    assert json.loads(json.dumps(found, allow_nan=False)) == found

"""Methods with their settings at equal cost: seeds of choice and report, the base at no more cost, the front;
from made-up evaluations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
from pydantic import ValidationError

import dgflow as dg
from dgflow.specs.figures import Lines, Table
from dgflow.specs.step import here
from dgflow.steps.arm_values import over_seeds
from dgflow.steps.judging.refinement_values import best, difference, front, rival
from dgflow.store.memory import MemoryStore


def test_the_base_at_equal_cost_is_its_best_setting_of_no_more_operations() -> None:
    costs = {"6 steps": 1.0, "8 steps": 2.0, "18 steps": 4.0}
    fids = {"6 steps": 3.0, "8 steps": 2.0, "18 steps": 2.5}
    found = {cost: rival(list(costs), fids, costs, cost) for cost in (0.5, 1.0, 3.0, 9.0)}
    assert found == {0.5: "6 steps", 1.0: "6 steps", 3.0: "8 steps", 9.0: "8 steps"}
    assert rival(list(costs), fids, costs, 2.0 - 1e-12) == "8 steps"  # a cost summed in another order
    assert best(["18 steps", "6 steps"], fids | {"6 steps": 2.5}) == "18 steps"  # the first of equals


@pytest.mark.parametrize(("lower_is_better", "expected"), [(True, ["a", "c", "e"]), (False, ["b", "d"])])
def test_the_front_are_the_points_that_no_other_one_beats(lower_is_better: bool, expected: list[str]) -> None:
    points = {"e": (5.0, 1.0), "d": (4.0, 9.0), "a": (1.0, 5.0), "b": (1.0, 7.0), "c": (2.0, 4.0)}
    assert front(points | {"f": (6.0, 1.0), "g": (6.0, 9.0)}, lower_is_better=lower_is_better) == expected


def test_the_interval_of_a_difference_is_students() -> None:
    """The quantile of Student's t with 2 degrees of freedom at 0.975 is 4.3027 (any table)."""
    found = difference([3.0, 4.0, 5.0], [1.0, 1.0, 1.0])
    assert found["per_seed"] == [2.0, 3.0, 4.0] and found["mean"] == 3.0
    assert found["interval"] == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert difference([3.0], [1.0])["interval"] is None


def comparison(**fields: Any) -> dg.CompareRefinements:
    """Plain sampling of two lengths, and guidance; nothing is executed."""
    source = Path("images.npz")
    guide = dg.DiscriminatorGuidance(discriminator=tiny.discriminator(source).last())

    sweeps: Any = {
        "plain": dg.swept("steps", (2, 4), lambda steps: {"sampler": dg.Heun(steps=steps)}),
        "guided": {"weight 1": {"guidance": (guide,)}},
    }
    generate = partial(dg.Generate, score=tiny.score(source).last(), shard_size=8)
    evaluation = tiny.workflow(str(source))
    evaluate = partial(dg.Evaluate, reference=evaluation.reference, features=evaluation.features)
    seeds = {"select_on": (5,), "report_on": (6, 7, 8)}
    return dg.CompareRefinements.of(generate, sweeps, evaluate, samples=16, **seeds | fields)


PLAIN, LONGER, GUIDED = "plain, steps 2", "plain, steps 4", "guided, weight 1"
COSTS = {PLAIN: 3.0, LONGER: 7.0, GUIDED: 6.0}


def results(selection: Mapping[str, float], report: Mapping[str, Sequence[float]]) -> Any:
    """Returns the inputs of the comparison, with made-up FIDs; precision is 1 / FID."""

    def arm(fids: Sequence[float], seeds: Sequence[int], **others: Any) -> dict[str, Any]:
        metrics = {"fid": over_seeds(fids), "precision": over_seeds([1 / fid for fid in fids])}
        return metrics | others | {"seeds": seeds, "n": 16}

    content = {
        "selection": {name: arm([fid], [5]) for name, fid in selection.items()},
        "report": {
            name: arm(fids, [6, 7, 8], sampling=over_seeds([COSTS[name]] * 3))
            for name, fids in report.items()
        },
    }
    return SimpleNamespace(result=lambda name: json.dumps({"arms": content[name]}).encode())


def content(selection: Mapping[str, float], report: Mapping[str, Sequence[float]]) -> bytes:
    return comparison().compute(results(selection, report), here, MemoryStore("refinements"))


REPORT = {PLAIN: [5.0, 5.1, 5.2], LONGER: [4.0, 4.1, 4.2], GUIDED: [3.0, 3.2, 3.1]}


def test_settings_are_chosen_on_the_selections_seeds_and_reported_on_others() -> None:
    found = content({PLAIN: 4.0, LONGER: 5.0, GUIDED: 9.0}, REPORT)  # the report has another order
    rows = comparison().compared(found)
    assert json.loads(found)["chosen"] == {"plain": PLAIN, "guided": GUIDED}
    assert json.loads(found)["chosen_on"] == [5]
    assert rows["plain"]["fid"]["per_seed"] == REPORT[PLAIN]
    assert rows["guided"]["fid"]["per_seed"] == REPORT[GUIDED] and rows["guided"]["sampling"]["mean"] == 6.0


def test_the_base_that_a_method_is_compared_with_costs_no_more() -> None:
    found = content({PLAIN: 5.0, LONGER: 4.0, GUIDED: 3.0}, REPORT)
    assert json.loads(found)["chosen"]["plain"] == LONGER and json.loads(found)["rivals"]["guided"] == PLAIN
    gain = comparison().compared(found)["guided"]["gain"]
    assert gain["per_seed"] == pytest.approx([2.0, 1.9, 2.1])


def test_its_figures_are_both_tables_and_each_metric_over_operations_with_its_front() -> None:
    step = comparison()
    choices, settings, *plots = step.figures(content({PLAIN: 5.0, LONGER: 4.0, GUIDED: 3.0}, REPORT))
    assert isinstance(choices, Table) and [row[0] for row in choices.rows] == ["plain", "guided"]
    assert isinstance(settings, Table) and [row[0] for row in settings.rows] == [PLAIN, LONGER, GUIDED]
    assert (choices.marked, settings.marked) == ([1], [1, 2])  # plain's choice is dominated: it costs more
    for plot, metric in zip(plots, (lambda fid: fid, lambda fid: 1 / fid), strict=True):
        assert isinstance(plot, Lines) and plot.front is not None
        assert [curve.label for curve in plot.curves] == ["plain", "guided"]
        costs, values = zip(*plot.front[0], strict=True)
        assert costs == (3.0, 6.0)
        assert values == pytest.approx([mean(map(metric, REPORT[arm])) for arm in (PLAIN, GUIDED)])


@pytest.mark.parametrize(
    ("fids", "words"),
    [([2.0, 2.1, 1.9], "lower"), ([9.0, 9.1, 8.9], "higher"), ([4.0, 6.0, 5.5], "within error")],
)
def test_the_table_says_where_a_method_does_not_help(fids: list[float], words: str) -> None:
    choices, *_ = comparison().figures(
        content({PLAIN: 5.0, LONGER: 5.0, GUIDED: 5.0}, REPORT | {GUIDED: fids})
    )
    assert isinstance(choices, Table)
    assert choices.rows[1][-1].endswith(words) and choices.rows[0][-1] == ""
    assert "of at most as many operations per sample, or the cheapest if all need more" in (
        choices.note or ""
    )


def test_only_some_methods_are_compared_and_the_base_is_always_among_them() -> None:
    assert list(comparison(only=()).methods) == ["plain"]
    assert list(comparison(only=("guided",)).methods) == ["plain", "guided"]
    with pytest.raises(ValueError, match="expected some of guided, found else"):
        comparison(only=("else",))


def test_samples_that_chose_are_not_reported_on() -> None:
    with pytest.raises(
        ValidationError, match="expected different samples to choose by and to report, found 16"
    ):
        comparison(select_on=(6,))


def test_evaluations_that_cannot_be_compared_are_refused() -> None:
    good = comparison()
    selection, report = good.selection.step, good.report.step
    assert isinstance(selection, dg.Evaluate) and isinstance(report, dg.Evaluate)
    fewer = selection.model_copy(update={"arms": {PLAIN: selection.arms[PLAIN]}}).result()
    without_fid = selection.model_copy(update={"metrics": ("precision",)}).result()
    without_cost = report.model_copy(update={"beside": ()}).result()
    for update, message in (
        ({"selection": fewer}, "selection: expected an arm for every"),
        ({"selection": without_fid}, "expected fid among"),
        ({"report": without_cost}, "report: expected the cost of its arms"),
        ({"report": report.beside[0]}, "expected the result of an Evaluate, found that of cost"),
        ({"base": "else"}, "base: expected one of plain, guided, found 'else'"),
        ({"methods": good.methods | {"none": ()}}, "expected one arm or more of each"),
    ):
        with pytest.raises(ValidationError, match=message):
            good.model_copy(update=update)

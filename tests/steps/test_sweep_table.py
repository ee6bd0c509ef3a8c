"""The table of a sweep and its figures, from made-up arms."""

import pytest

from dgflow.report.sweep_text import as_csv, as_text
from dgflow.specs.figures import HeatMap, Lines, Table
from dgflow.steps.sweeping.sweep_figures import sweep_figures
from dgflow.steps.sweeping.sweep_table import sweep_table

FID = ["fid", {"heading": "FID", "decimals": 2, "lower_is_better": True}]
IS = ["is", {"heading": "IS", "decimals": 2, "lower_is_better": False}]


def measured(mean, spread: float | None = 0.5, error=None):
    seeds = [mean] if spread is None else [mean - spread, mean, mean + spread]
    return {"mean": mean, "spread": spread, "per_seed": seeds, "errors": [error] * len(seeds)}


def content(combinations, *, over=(), zipped=False, quantities=(FID,)):
    """Returns the content of pairs (settings, arms by name with their FID, as a number or as measured)."""
    return {
        "parameters": list(combinations[0][0]),
        "over": list(over),
        "zipped": zipped,
        "quantities": list(quantities),
        "combinations": [
            {
                "settings": settings,
                "arms": [
                    [name, {"fid": measured(value) if isinstance(value, float) else value}]
                    for name, value in arms.items()
                ],
            }
            for settings, arms in combinations
        ],
    }


def grid(first, second, value, **options):
    return content(
        [
            ({"weight": weight, "epochs": epochs}, {"plain": 9.0, "guided": value(weight, epochs)})
            for weight in first
            for epochs in second
        ],
        **options,
    )


def test_one_numeric_parameter_gives_a_curve_with_error_bars_per_metric_and_the_reference_as_a_level():
    table = sweep_table(
        content([({"weight": w}, {"plain": 9.0, "guided": 4.0 + w}) for w in (2.0, 0.1, 1.0)])
    )
    of_table, lines = sweep_figures(table)
    assert isinstance(of_table, Table) and of_table.heading == ["weight", "arm", "FID"]
    assert isinstance(lines, Lines)
    (curve,) = lines.curves
    assert (curve.label, list(curve.x), list(curve.y)) == ("guided", [0.1, 1.0, 2.0], [4.1, 5.0, 6.0])
    assert list(curve.error or ()) == [0.5] * 3
    assert lines.level == (9.0, "plain") and lines.mark == (0.1, "best")
    assert lines.log_x  # 0.1 to 2
    assert of_table.marked == (1,)  # the row of 0.1, in the order of the sweep


def test_two_parameters_give_a_heat_map_with_the_best_and_its_equals_marked():
    table = sweep_table(grid((1.0, 2.0), (4, 8), lambda weight, epochs: weight + abs(epochs - 8)))
    _, heat = sweep_figures(table)
    assert isinstance(heat, HeatMap)
    assert (heat.y_label, heat.rows, heat.x_label, heat.columns) == (
        "weight",
        ["1", "2"],
        "epochs",
        ["4", "8"],
    )
    assert heat.values == [[5.0, 1.0], [6.0, 2.0]]
    assert heat.texts[0][1] == "1.00 ± 0.50"
    # 2.0 differs from 1.0 by both spreads, 0.5 + 0.5, and by no more.
    assert sorted(heat.marked) == [(0, 1), (1, 1)]


def test_zipped_parameters_give_curves_over_the_first():
    pairs = [({"weight": 1.0, "epochs": 4}, {"guided": 3.0}), ({"weight": 2.0, "epochs": 8}, {"guided": 5.0})]
    _, lines = sweep_figures(sweep_table(content(pairs, zipped=True)))
    assert isinstance(lines, Lines) and lines.x_label == "weight and epochs"
    assert [list(curve.y) for curve in lines.curves] == [[3.0, 5.0]]


def test_a_parameter_of_words_gives_a_row_of_a_heat_map():
    pairs = [({"loss": loss}, {"guided": value}) for loss, value in (("bce", 3.0), ("ukl", 4.5))]
    _, heat = sweep_figures(sweep_table(content(pairs)))
    assert isinstance(heat, HeatMap) and heat.columns == ["bce", "ukl"] and heat.values == [[3.0, 4.5]]
    assert heat.marked == [(0, 0)]


@pytest.mark.parametrize(("others", "drawn"), [(2, True), (5, False)])
def test_three_parameters_give_a_curve_per_combination_of_the_others_where_these_are_few(others, drawn):
    pairs = [
        ({"weight": weight, "epochs": epochs, "seed": seed}, {"guided": weight + epochs + seed})
        for weight in (1.0, 2.0)
        for epochs in range(others)
        for seed in (0, 1)
    ]
    figures = sweep_figures(sweep_table(content(pairs)))
    assert [type(each) for each in figures] == [Table, Lines] if drawn else [Table]
    if isinstance(lines := figures[-1], Lines):
        labels = [curve.label for curve in lines.curves]
        assert labels == ["epochs 0, seed 0", "epochs 0, seed 1", "epochs 1, seed 0", "epochs 1, seed 1"]


def test_several_arms_that_vary_have_a_row_each_and_a_curve_each():
    pairs = [({"weight": w}, {"plain": 9.0, "a": 1.0 + w, "b": 4.0 - w}) for w in (1.0, 2.0)]
    table = sweep_table(content(pairs))
    assert [(row.settings["weight"], row.arm) for row in table.rows] == [
        (1.0, "a"),
        (1.0, "b"),
        (2.0, "a"),
        (2.0, "b"),
    ]
    lines = sweep_figures(table)[1]
    assert isinstance(lines, Lines) and [curve.label for curve in lines.curves] == ["a", "b"]


def test_an_arm_that_one_combination_lacks_has_rows_for_the_others():
    pairs = [({"number": 1}, {"one": 3.0}), ({"number": 2}, {"one": 3.0, "two": 4.0})]
    table = sweep_table(content(pairs))
    assert [row.arm for row in table.references] == ["one"]
    assert [(row.settings["number"], row.arm) for row in table.rows] == [(2, "two")]


def test_of_single_seeds_the_standard_error_of_the_samples_decides_what_is_within_error():
    pairs = [
        ({"weight": w}, {"guided": measured(fid, None, error)})
        for w, fid, error in ((1.0, 3.0, 0.25), (2.0, 3.5, 0.5), (3.0, 3.5, 0.125))
    ]
    table = sweep_table(content(pairs))
    assert table.best["fid"].row == 0 and table.best["fid"].within_error == (1,)
    assert "standard error estimated from the samples" in table.notes[0]


def test_without_any_error_the_best_alone_is_marked():
    pairs = [({"weight": w}, {"guided": measured(fid, None)}) for w, fid in ((1.0, 3.0), (2.0, 3.001))]
    table = sweep_table(content(pairs))
    assert table.best["fid"].within_error == () and "the spread is unknown" in table.notes[0]
    assert "3.00 *" in as_text(table)


def test_a_reference_that_no_combination_beats_is_told():
    table = sweep_table(content([({"weight": w}, {"plain": 1.0, "guided": 4.0 + w}) for w in (1.0, 2.0)]))
    assert "FID: plain is better than every combination" in table.notes


def test_repetitions_with_their_own_seeds_leave_the_reference_that_varies_with_them_below_the_table():
    """With `--seeds 1;2 --over seeds` an unguided arm differs only between seeds."""
    pairs = [
        (
            {"weight": w, "seeds": [seed]},
            {"plain": measured(9.0 + seed, None), "guided": measured(w + seed, None)},
        )
        for w in (1.0, 2.0)
        for seed in (1, 3)
    ]
    table = sweep_table(content(pairs, over=["seeds"]))
    (plain,) = table.references
    assert plain.values["fid"].mean == 11.0 and plain.values["fid"].spread == pytest.approx(2**0.5)
    assert [row.values["fid"].mean for row in table.rows] == [3.0, 4.0]


def test_an_empty_quantity_and_missing_numbers_are_blank():
    pairs = [({"weight": w}, {"guided": 4.0 + w}) for w in (1.0, 2.0)]
    table = sweep_table(content(pairs, quantities=(FID, IS)))
    assert list(table.quantities) == ["fid"]
    assert as_csv({"": table}).splitlines()[0] == "weight,arm,fid,fid_error,fid_n,fid_mark"


def test_a_metric_that_should_come_near_a_value_has_no_best_row():
    ratio = ["log_ratio", {"heading": "log-ratio", "decimals": 3, "nearest": "that of real images"}]
    data = content([({"weight": w}, {"guided": 4.0 + w}) for w in (1.0, 2.0)], quantities=(FID, ratio, IS))
    for combination in data["combinations"]:
        ((_, values),) = combination["arms"]
        values |= {"log_ratio": measured(1.0), "is": measured(2.0)}
    table = sweep_table(data)
    assert list(table.best) == ["fid", "is"]
    assert table.notes[0].endswith(
        "FID: lower is better; log-ratio: nearer to that of real images is better; IS: higher is better"
    )

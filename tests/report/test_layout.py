"""Formatting of a table's numbers."""

import pytest

from dgflow.report.layout import in_blocks, number, with_spread
from dgflow.specs.figures import Metric
from dgflow.steps.sweeping.sweep_figures import value_shown
from dgflow.steps.sweeping.sweep_table import Value


@pytest.mark.parametrize(
    ("value", "expected"), [(-4e-5, "0.00"), (-0.006, "-0.01"), (0.0, "0.00"), (-1_234.5, "-1,234.50")]
)
def test_what_rounds_to_nothing_has_no_sign(value, expected):
    assert number("fid", value) == expected
    assert with_spread({"mean": value, "spread": 0.25}, 2) == f"{expected} ± 0.25"
    assert value_shown(Value(value, None, None, (value,)), Metric("FID", 2)) == expected


ROWS = [
    ["", "FID", "recall", "seeds"],
    ["unguided", "3.19 ± 0.33", "0.965", "3"],
    ["guided", "1.41", "0.967", "3"],
]


def test_a_table_that_fits_is_one_block():
    assert in_blocks(ROWS, width=80) == [
        "                  FID  recall  seeds",
        "------------------------------------",
        "unguided  3.19 ± 0.33   0.965      3",
        "guided           1.41   0.967      3",
    ]


def test_columns_that_do_not_fit_follow_below_with_the_first_column_again():
    assert in_blocks(ROWS, width=30) == [
        "                  FID  recall",
        "-----------------------------",
        "unguided  3.19 ± 0.33   0.965",
        "guided           1.41   0.967",
        "",
        "          seeds",
        "---------------",
        "unguided      3",
        "guided        3",
    ]

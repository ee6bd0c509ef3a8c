"""Formatting of durations."""

import pytest

from dgflow.runtime.durations import duration


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "0 s"),
        (9.6e-05, "< 0.01 s"),
        (0.012, "0.012 s"),
        (0.42, "0.42 s"),
        (41.4, "41 s"),
        (185, "3 min 05 s"),
        (7_800, "2 h 10 min"),
        (4 * 86_400 + 6 * 3_600, "4 d 06 h"),
    ],
)
def test_seconds_are_told_in_units_that_are_easy_to_read(seconds, expected):
    assert duration(seconds) == expected

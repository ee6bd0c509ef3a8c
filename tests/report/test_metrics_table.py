"""The table of `dgflow metrics`: every number with as many digits as its error warrants, and lines that need
no explanation."""

import pytest
from metrics.metric_results import VALUES, result

from dgflow.report.metrics_table import metrics_table

WHOLE = """\
          FID           sFID           IS        precision  recall      F1                  KID  samples
--------------------------------------------------------------------------------------------------------
3.943 ± 0.021  6.140 ± 0.031  215.8 ± 1.6  0.8265 ± 0.0017  0.5309  0.6465  0.000410 ± 0.000012   50,000

protocol adm; FID, sFID and KID: lower is better; IS, precision, recall and F1: higher is better
samples: seed 0, indices 0 to 49,999, digest aaaaaaaaaaaa
reference for FID and sFID: published statistics, digest cccccccccccc
reference for precision, recall, F1 and KID: 10,000 images, digest bbbbbbbbbbbb
features: network with digest dddddddddddd
precision, recall and F1: 3 nearest neighbours, exact distances
IS: mean over 10 splits of 5,000 samples, with standard deviation 4.86
KID: mean over 100 subsets of 1,000, drawn with seed 2020
± is one standard error over draws of the samples; the reference is taken as fixed
not part of protocol adm, so do not compare with published numbers: KID
warning: 3 of 50,000 images have a single colour: index 3, 7, 9"""

COMPARED = """\
                             FID   recall  samples
--------------------------------------------------
this result        3.900 ± 0.030   0.5309   50,000
against            4.100 ± 0.040   0.5300   50,000
change            -0.200 ± 0.050  +0.0009
more than noise?             yes  unknown

protocol adm; FID: lower is better; recall: higher is better
this result: seed 0, indices 0 to 49,999, digest aaaaaaaaaaaa
against: seed unknown, digest eeeeeeeeeeee
reference for FID: published statistics, digest cccccccccccc
reference for recall: 10,000 images, digest bbbbbbbbbbbb
features: network with digest dddddddddddd
recall: 3 nearest neighbours, exact distances
± is one standard error over draws of the samples; the reference is taken as fixed
change: this result minus the row 'against'; more than noise: more than 2 times the change's standard error; unknown without a standard
  error (recall)
warning: one thing
warning: for the row 'against': another"""  # noqa: E501


def test_one_result_is_a_row_with_everything_that_it_depends_on():
    note = "not part of protocol adm, so do not compare with published numbers: KID"
    warning = "3 of 50,000 images have a single colour: index 3, 7, 9"
    assert metrics_table(result(spreads={"is": 4.86}, notes=[note], warnings=[warning])) == WHOLE


def test_two_results_show_the_change_and_whether_it_is_noise():
    a = result({"fid": 3.9, "recall": 0.5309}, {"fid": 0.03, "recall": None}, warnings=["one thing"])
    of_b = {"seed": None, "start": None, "stop": None, "samples_digest": "e" * 64, "warnings": ["another"]}
    assert (
        metrics_table(a, result({"fid": 4.1, "recall": 0.53}, {"fid": 0.04, "recall": None}, **of_b))
        == COMPARED
    )


@pytest.mark.parametrize(
    ("metric", "value", "error", "shown"),
    [
        ("fid", 3.94321, 0.0213, "3.943 ± 0.021"),
        ("fid", 3.94321, 0.00213, "3.943 ± 0.002"),
        ("fid", 43.8412, 0.213, "43.84 ± 0.21"),
        ("fid", 43.8412, 0.0996, "43.84 ± 0.10"),
        ("fid", 243.84, 12.3, "244 ± 12"),
        ("fid", 2438.4, 123.4, "2,438 ± 123"),
        ("fid", 3.94321, None, "3.943"),
        ("fid", 0.0, 0.0, "0.000 ± 0.000"),
        ("is", 9.8312, 0.0312, "9.83 ± 0.03"),
        ("kid", 0.000412, 0.000012, "0.000412 ± 0.000012"),
        ("kid", 0.0412, 0.0012, "0.0412 ± 0.0012"),
        ("precision", 0.8267, 0.012, "0.827 ± 0.012"),
    ],
)
def test_an_error_shows_two_digits_unless_the_value_would_get_too_many(metric, value, error, shown):
    row = metrics_table(result({metric: value}, {metric: error})).splitlines()[2]
    assert row == f"{shown}   50,000".rjust(len(row))


def test_a_metric_that_one_result_lacks_has_no_change():
    lines = metrics_table(result(), result({"fid": 4.0})).splitlines()
    assert lines[3].split() == ["against", "4.000", "±", "0.021", *["-"] * 6, "50,000"]
    assert lines[5].split() == ["more", "than", "noise?", "no", *["-"] * 6]


def test_no_line_is_longer_than_140_characters_and_only_warnings_begin_with_the_word():
    table = metrics_table(
        result(warnings=["word " * 60, "brief"], notes=["note " * 60]), result(warnings=["word " * 60])
    )
    lines = table.splitlines()
    assert max(map(len, lines)) <= 140
    assert [line for line in lines if line.startswith("warning: ")][1] == "warning: brief"
    assert sum(line.startswith("warning: ") for line in lines) == 2


def test_a_warning_cannot_steer_the_terminal():
    assert "\x1b" not in metrics_table(result(warnings=["\x1b[2Jgone"]))


def test_own_settings_are_said_to_be_of_no_protocol():
    table = metrics_table(
        result(VALUES, {}, protocol="custom", front_end="clean", distances="openai-float16", n=900, stop=900)
    )
    assert "custom settings, not those of a published protocol, resized as in protocol clean; FID" in table
    assert "distances rounded to float16 as in OpenAI's evaluator" in table
    assert "IS: one split of all samples" in table
    assert "±" not in table


def test_a_reference_of_images_alone_is_named_once():
    assert "\nreference: 10,000 images, digest bbbbbbbbbbbb\n" in metrics_table(
        result(statistics_digest=None)
    )


def test_statistics_without_their_images_say_what_is_not_known():
    unknown = {
        "n": None,
        "start": None,
        "stop": None,
        "reference_digest": None,
        "reference_n": None,
        "network_digest": None,
    }
    lines = metrics_table(result({"fid": 3.9}, {}, **unknown)).splitlines()
    assert lines[2].split() == ["3.900", "-"]
    assert "samples: statistics of an unknown number of images, digest aaaaaaaaaaaa" in lines
    assert "features: network unknown" in lines


def test_unlike_results_have_no_table():
    with pytest.raises(ValueError, match="network_digest"):
        metrics_table(result(), result(network_digest="f" * 64))

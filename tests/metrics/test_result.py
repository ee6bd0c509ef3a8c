"""Results: exact JSON, refusal of unlike results, changes against their noise, and standard errors against
repeated draws."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from metrics.in_memory import inception_score
from metrics.metric_results import result
from pydantic import ValidationError
from torch_fidelity.metric_kid import kid_features_to_metric

from dgflow.metrics.protocols import METRICS
from dgflow.metrics.result import (
    check_comparable,
    difference,
    lowest,
    read_result,
    share_error,
    split_error,
    subset_error,
)

FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(st.dictionaries(st.sampled_from(METRICS), FINITE, min_size=1), st.text(max_size=20))
def test_a_result_reads_back_exactly(values, text):
    errors = {name: abs(value) if value else None for name, value in values.items()}
    written = result(values, errors, warnings=[text], notes=[text])
    found = read_result(written.encoded(), "a.json")
    assert found == written
    assert found.encoded() == written.encoded()
    assert read_result(written.model_dump_json(), "a.json") == written


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x93NUMPY", "a.json: expected the JSON that `dgflow metrics` writes, found none"),
        (b"[3.1]", "found a list"),
        (b'{"fid": 3.1}', "with format, values and provenance, found the keys fid"),
        (
            b'{"format": 7, "values": {}, "provenance": {"dgflow_version": "9.1"}}',
            "expected format 1, found 7, written by dgflow 9.1",
        ),
    ],
)
def test_another_file_is_refused_with_what_it_is(content, message):
    with pytest.raises(ValueError, match=message):
        read_result(content, "a.json")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("values", "lpips"), 0.1, "expected values of fid, sfid"),
        (("values", "fid"), math.nan, "values.fid: "),
        (("errors", "fid"), -1.0, "errors.fid: "),
        (("spreads", "fid"), 1.0, "expected spreads of is, kid, found fid"),
        (("provenance", "k"), "many", "provenance.k: "),
        (("provenance", "network_digest"), "d" * 12, "provenance.network_digest: "),
        (("provenance", "of_the_future"), 1, "provenance.of_the_future: "),
    ],
)
def test_a_damaged_file_is_refused_with_the_field_that_is_wrong(path, value, message):
    document = json.loads(result(spreads={"is": 4.9}).encoded())
    document[path[0]][path[1]] = value
    with pytest.raises(ValueError, match=f"a.json: .*{message}"):
        read_result(json.dumps(document), "a.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "mine"}, "expected protocol adm, edm, clean or custom"),
        ({"front_end": "clean"}, "expected the front end of protocol adm"),
        ({"stop": 49_999}, "expected start and stop of 50000 samples"),
        ({"start": None}, "expected start and stop of 50000 samples"),
        ({"n": None}, "expected start and stop of an unknown number of samples"),
        ({"reference_digest": None}, "expected a reference"),
        ({"reference_digest": None, "reference_n": None, "statistics_digest": None}, "expected a reference"),
    ],
)
def test_a_provenance_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        result(**changes)


DECISIVE = {
    "protocol": "custom",
    "n": 10_000,
    "reference_digest": "e" * 64,
    "reference_n": 9_999,
    "statistics_digest": None,
    "network_digest": "e" * 64,
    "k": 5,
    "distances": "openai-float16",
    "split_size": 1000,
    "kid_subsets": 10,
    "kid_subset_size": 500,
    "kid_seed": 0,
}


@pytest.mark.parametrize("field", DECISIVE)
def test_results_that_differ_in_one_field_are_refused_and_the_field_is_named(field):
    changes = {field: DECISIVE[field]} | ({"stop": DECISIVE["n"]} if field == "n" else {})
    with pytest.raises(ValueError, match=rf"found differences in {field}: "):
        check_comparable(result(), result(**changes))


def test_every_field_that_differs_is_named_at_once():
    with pytest.raises(ValueError) as error:
        check_comparable(result(), result(**DECISIVE, start=0, stop=10_000))
    assert all(f"{field}: " in str(error.value) for field in DECISIVE)
    assert "d" * 12 + " and " + "e" * 12 in str(error.value)


def test_other_samples_seeds_and_versions_may_be_compared():
    check_comparable(
        result(), result(seed=7, start=100, stop=50_100, samples_digest="f" * 64, dgflow_version="9.9.9")
    )
    check_comparable(result(), result(seed=None, start=None, stop=None))


def test_a_change_has_the_error_of_both_and_is_noise_below_two_of_them():
    a = result({"fid": 4.0, "sfid": 6.0, "recall": 0.5}, {"fid": 0.03, "sfid": 0.3, "recall": None})
    b = result(
        {"recall": 0.4, "sfid": 5.1, "fid": 4.099, "f1": 0.3}, {"recall": None, "sfid": 0.4, "fid": 0.04}
    )
    changes = difference(a, b)
    assert list(changes) == ["fid", "sfid", "recall"]
    assert changes["fid"] == pytest.approx((-0.099, 0.05, True))
    assert changes["sfid"] == pytest.approx((0.9, 0.5, True))
    assert changes["recall"] == (pytest.approx(0.1), None, None)
    assert not difference(a, result({"fid": 4.101}, {"fid": 0.04}))["fid"].within_noise


def test_equal_results_differ_by_noise_even_without_an_error_to_speak_of():
    same = result({"fid": 0.0}, {"fid": 0.0})
    assert difference(same, same)["fid"] == (0.0, 0.0, True)


def test_results_without_a_shared_metric_have_no_difference():
    with pytest.raises(ValueError, match="expected a metric that both have, found fid and kid"):
        difference(result({"fid": 1.0}), result({"kid": 1.0}))


def _edm(fid: float, first: int, seed: int = 0, **changes):
    fields = {"protocol": "edm", "front_end": "edm", "seed": seed, "start": first, "stop": first + 50_000}
    return result({"fid": fid}, **fields | changes)


def test_the_lowest_of_the_published_seed_ranges_is_named_as_such():
    found = lowest([_edm(1.99, 100_000), _edm(1.97, 0), _edm(1.98, 0, seed=50_000)])
    assert (found.label, found.fid) == ("lowest of 3 seed ranges, as published", 1.97)
    assert [one.provenance.seed_range for one in found.results] == [
        (0, 50_000),
        (50_000, 100_000),
        (100_000, 150_000),
    ]


@pytest.mark.parametrize(
    ("starts", "found"),
    [
        ([0, 50_000], "found 0-49999, 50000-99999:"),
        ([0, 50_000, 50_000], "found 0-49999, 50000-99999, 50000-99999:"),
        ([0, 50_000, 100_000, 150_000], "150000-199999:"),
        ([0, 50_000, 100_001], "100001-150000:"),
        ([0, 50_000, 100_000, 100_000], "100000-149999, 100000-149999:"),
    ],
)
def test_other_seed_ranges_than_the_published_have_no_published_lowest(starts, found):
    with pytest.raises(
        ValueError,
        match=rf"ranges 0-49999, 50000-99999, 100000-149999, .*{found} the lowest of these is not the "
        r"published",
    ):
        lowest([_edm(2.0, start) for start in starts])


def test_unknown_seeds_other_protocols_and_unlike_results_have_no_lowest():
    with pytest.raises(ValueError, match="unknown"):
        lowest([_edm(2.0, 0), _edm(2.0, 50_000), _edm(2.0, 0, start=None, stop=None)])
    with pytest.raises(ValueError, match="a protocol with seed ranges"):
        lowest([result()])
    with pytest.raises(ValueError, match="network_digest"):
        lowest([_edm(2.0, 0), _edm(2.0, 50_000), _edm(2.0, 100_000, network_digest="e" * 64)])


def test_the_error_of_an_inception_score_is_its_spread_over_repeated_draws():
    rng = np.random.default_rng(0)
    scores = [inception_score(3 * rng.standard_normal((1000, 10)), split_size=100) for _ in range(300)]
    predicted = np.sqrt(np.mean([split_error(score.std, 10) ** 2 for score in scores]))  # pyright: ignore[reportOptionalOperand]
    assert predicted == pytest.approx(
        np.std([score.mean for score in scores]), rel=0.15
    )  # 4 % each from 300 draws
    assert split_error(0.0, 1) is None


def test_the_error_of_precision_is_binomial():
    draws = np.random.default_rng(1).binomial(400, 0.8, size=4000) / 400
    assert share_error(0.8, 400) == pytest.approx(draws.std(), rel=0.04)
    assert share_error(1.0, 400) == 0


def test_the_error_of_a_kernel_distance_is_its_spread_over_repeated_draws_where_the_reference_is_large():
    rng, subsets, size, n = np.random.default_rng(2), 40, 30, 240
    real = rng.standard_normal((4000, 6))
    found = [
        kid_features_to_metric(
            torch.from_numpy(rng.standard_normal((n, 6)) + 0.5),
            torch.from_numpy(real),
            kid_subsets=subsets,
            kid_subset_size=size,
            verbose=False,
        )
        for _ in range(150)
    ]
    means, stds = np.array(
        [[one[f"kernel_inception_distance_{what}"] for what in ("mean", "std")] for one in found]
    ).T
    predicted = np.sqrt(np.mean([subset_error(std, subsets, size, n) ** 2 for std in stds]))  # pyright: ignore[reportOptionalOperand]
    assert (
        1.0 < predicted / means.std() < 2.0
    )  # the reference's share of the spread makes it too large, by root 2 if both sides are alike
    assert stds.mean() / np.sqrt(subsets) < 0.7 * means.std()  # what is often given is too small


def test_one_subset_and_a_subset_of_everything_leave_the_error_unknown():
    assert subset_error(0.1, 1, 1000, 50_000) is None
    assert subset_error(0.0, 100, 1000, 1000) is None

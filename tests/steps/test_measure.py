"""Measure, Statistics and Evaluate over stored features: the numbers, the dependencies of a result, and the
amount of computation."""

import io
import json
from typing import ClassVar

import numpy as np
import pytest
from inprocess import complete
from metrics.in_memory import frechet_standard_error, inception_score, kernel_distance, precision_recall
from steps.judging import INCEPTION, generated, image_set, judged, measured, rows_of
from steps.measuring import FAKE, NUMBERS, REAL, REFERENCE, SAMPLES, small_protocols, statistics_file, store

from dgflow import Evaluate
from dgflow.cli.export import export
from dgflow.engine.execute import result_of
from dgflow.engine.plan import plan
from dgflow.images.statistics import read_statistics
from dgflow.metrics.frechet import Gaussian, Moments, frechet_distance
from dgflow.metrics.result import check_comparable, difference
from dgflow.report.summary import summarise, table_rows
from dgflow.specs.figures import Metric
from dgflow.specs.step import ResultStep
from dgflow.steps.judging.features import Features
from dgflow.steps.judging.measure import Measure
from dgflow.steps.judging.statistics import Statistics
from dgflow.steps.sources.image_set import StatisticsFile
from dgflow.store.memory import MemoryStore
from dgflow.store.open import open_store

__all__ = ["store", "small_protocols"]


def kinds(store):
    """Returns the number of steps of each kind in the root."""
    names = [name.rpartition("-")[0] for name in store.names()]
    return {name: names.count(name) for name in names}


# The numbers


@pytest.mark.usefixtures("small_protocols")
def test_every_metric_is_that_of_the_rows_in_memory(store):
    everything = ("fid", "sfid", "is", "precision", "recall", "f1", "kid")
    found = measured(store, SAMPLES, reference=REFERENCE.model_copy(), metrics=everything)
    moments = {
        column: (Moments.of(FAKE[column]), Moments.of(REAL[column])) for column in ("features", "spatial")
    }
    score, kid = (
        inception_score(FAKE["logits"], 60),
        kernel_distance(REAL["features"], FAKE["features"], 7, 50, 2020),
    )
    chosen = np.sort(np.random.RandomState(0).permutation(200)[:60])
    shared = precision_recall(REAL["features"][chosen], FAKE["features"])
    assert found.values == {
        "fid": frechet_distance(*moments["features"]),
        "sfid": frechet_distance(*moments["spatial"]),
        "is": score.mean,
        "precision": shared.precision,
        "recall": shared.recall,
        "f1": shared.f1,
        "kid": kid.mean,
    }
    assert found.errors["fid"] == frechet_standard_error(FAKE["features"], moments["features"][1])
    assert found.spreads == {"is": score.std, "kid": kid.std}


def test_openais_rounding_is_that_of_the_rows_in_memory(store):
    found = measured(
        store,
        SAMPLES,
        reference=REFERENCE,
        metrics=("precision", "recall"),
        distances="openai-float16",
        neighbours=5,
    )
    expected = precision_recall(REAL["features"], FAKE["features"], 5, distances="openai-float16")
    assert found.values == {"precision": expected.precision, "recall": expected.recall}
    assert (found.provenance.distances, found.provenance.k) == ("openai-float16", 5)


def test_kid_of_fewer_images_than_a_subset_takes_all_and_says_so(store):
    found = measured(store, SAMPLES, reference=REFERENCE, metrics=("kid",))
    assert found.provenance.kid_subset_size == 200
    assert found.values["kid"] == kernel_distance(REAL["features"], FAKE["features"], 100, 200, 2020).mean


def test_fid_of_two_statistics_needs_no_network(store, tmp_path):
    files = [statistics_file(tmp_path / f"{seed}.npz", seed=seed) for seed in (1, 2)]
    found = measured(store, files[0], statistics=files[1], features=None)
    for metric, mean, covariance in (("fid", "mu", "sigma"), ("sfid", "mu_s", "sigma_s")):
        a, b = (Gaussian(file.read()[mean], file.read()[covariance]) for file in files)
        assert found.values[metric] == frechet_distance(a, b)
    assert set(found.values) == {"fid", "sfid"}
    assert (found.provenance.samples_digest, found.provenance.statistics_digest) == (
        files[0].digest,
        files[1].digest,
    )
    assert (found.provenance.n, found.provenance.network_digest) == (None, None)


def test_fid_is_against_the_statistics_where_there_are_some_and_precision_against_the_images(store, tmp_path):
    file = statistics_file(tmp_path / "published.npz", known=False)
    found = measured(
        store, SAMPLES, reference=REFERENCE, statistics=file, metrics=("fid", "sfid", "precision", "recall")
    )
    assert found.values["fid"] == frechet_distance(
        Moments.of(FAKE["features"]), Gaussian(file.read()["mu"], file.read()["sigma"])
    )
    assert found.values["sfid"] == frechet_distance(
        Moments.of(FAKE["spatial"]), Gaussian(file.read()["mu_s"], file.read()["sigma_s"])
    )
    assert found.values["precision"] == precision_recall(REAL["features"], FAKE["features"]).precision
    assert (found.provenance.statistics_digest, found.provenance.reference_digest) == (
        file.digest,
        REFERENCE.digest,
    )
    assert "statistics" not in kinds(store)


def test_published_statistics_make_the_references_images_needless_for_fid(tmp_path):
    file, other = (
        statistics_file(tmp_path / "published.npz", known=False),
        MemoryStore(f"measure-{next(NUMBERS)}"),
    )
    judged(other, SAMPLES, FAKE)
    found = measured(other, SAMPLES, reference=REFERENCE, statistics=file, metrics=("fid",))
    assert (found.provenance.reference_digest, found.provenance.reference_n) == (None, None)
    assert kinds(other)["features"] == 1


# A reference of more images than precision and recall use


@pytest.mark.usefixtures("small_protocols")
def test_precision_and_recall_take_the_same_reference_images_for_all_samples_and_a_note_says_so(store):
    other = image_set("others", 70)
    rows = rows_of(3, 70)
    judged(store, other, rows)
    chosen = np.sort(np.random.RandomState(0).permutation(200)[:60])
    for samples, fake in ((SAMPLES, FAKE), (other, rows)):
        found = measured(store, samples, reference=REFERENCE, metrics=("fid", "recall"))
        assert found.values["recall"] == precision_recall(REAL["features"][chosen], fake["features"]).recall
        assert [note for note in found.notes if "60 of the reference's 200 images" in note]
        assert not [line for line in found.warnings if "reference images" in line]


@pytest.mark.usefixtures("small_protocols")
def test_images_of_the_reference_that_are_not_chosen_change_neither_precision_nor_recall(store):
    chosen = np.random.RandomState(0).permutation(200)[:60]
    changed = REAL | {"features": REAL["features"] + 1}
    changed["features"][chosen] = REAL["features"][chosen]
    judged(store, image_set("changed", 200), changed)
    values = [
        measured(store, SAMPLES, reference=part, metrics=("precision", "recall")).values
        for part in (REFERENCE, image_set("changed", 200))
    ]
    assert values[0] == values[1]


# Dependencies of a result


def test_results_with_one_reference_compare_and_with_another_do_not(store):
    other, fewer = image_set("another", 200), rows_of(7, 240)
    judged(store, other, rows_of(9, 200))
    judged(store, image_set("more.npz", 240), fewer)
    found, alike, unlike = (
        measured(store, samples, reference=reference, metrics=("fid",))
        for samples, reference in (
            (SAMPLES, REFERENCE),
            (image_set("more.npz", 240), REFERENCE),
            (SAMPLES, other),
        )
    )
    assert found.provenance.reference_digest == alike.provenance.reference_digest
    assert difference(found, alike)["fid"].change == found.values["fid"] - alike.values["fid"]
    with pytest.raises(ValueError, match="found differences in reference_digest"):
        check_comparable(found, unlike)


def test_generated_samples_carry_seed_and_range_and_the_digest_of_their_images(store):
    samples = generated(store, 40, 80, seed=7, seeding="edm", shard_size=20)
    judged(store, samples, rows_of(3, 40))
    found = measured(store, samples, reference=REFERENCE, metrics=("fid",)).provenance
    assert (found.seed, found.seeding, found.start, found.stop, found.seed_range) == (
        7,
        "edm",
        40,
        80,
        (47, 87),
    )
    samples_again = image_set("exported", 40, seed=7, seeding="edm", start=40)
    judged(store, samples_again, rows_of(3, 40))
    assert measured(store, samples_again, reference=REFERENCE, metrics=("fid",)).provenance.seed_range == (
        47,
        87,
    )
    assert len(found.samples_digest) == 64 and found.samples_digest != SAMPLES.digest


# Statistics


def test_statistics_are_numpys_mean_and_covariance_in_a_file_that_everybody_reads(store, tmp_path):
    step = Statistics(features=Features(samples=REFERENCE, network=INCEPTION, front_end="adm")[:200])
    complete(step, store)
    path = tmp_path / "reference.npz"
    path.write_bytes(result_of(step, store))
    found = read_statistics(str(path))
    assert found is not None
    for column, mean, covariance in (("features", "mu", "sigma"), ("spatial", "mu_s", "sigma_s")):
        values = REAL[column].astype(np.float64)
        np.testing.assert_allclose(getattr(found, mean), values.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(
            getattr(found, covariance), np.cov(values, rowvar=False), rtol=1e-12, atol=1e-12
        )
    with np.load(path) as arrays:
        assert sorted(arrays.files) == ["mu", "mu_s", "n", "sigma", "sigma_s"] and arrays["n"] == 200


def test_statistics_that_were_exported_give_the_same_distance_as_the_images(tmp_path):
    root = str(tmp_path / "root")
    store = open_store(root)
    store.put("dgflow.json", b'{"dgflow_root": 1}')
    judged(store, SAMPLES, FAKE)
    judged(store, REFERENCE, REAL)
    expected = measured(store, SAMPLES, reference=REFERENCE, metrics=("fid", "sfid")).values
    step = Features(samples=REFERENCE, network=INCEPTION, front_end="adm")
    export(f"{root}/{step.name}[0:200]", str(tmp_path / "reference.npz"), "npz")
    file = StatisticsFile(
        source=str(tmp_path / "reference.npz"),
        digest=StatisticsFile.at(str(tmp_path / "reference.npz")).digest,
    )
    assert measured(store, SAMPLES, statistics=file, metrics=("fid", "sfid")).values == expected


def test_statistics_of_a_reference_are_computed_once_for_all_that_is_compared_with_it(store):
    judged(store, image_set("more", 240), rows_of(4, 240))
    for samples in (SAMPLES, image_set("more", 240)):
        measured(store, samples, reference=REFERENCE)
    assert (kinds(store)["measure"], kinds(store)["statistics"]) == (2, 1)
    name = next(name for name in store.names() if name.startswith("statistics"))
    assert len(store.list(f"{name}/data")) == 1


def test_the_file_of_statistics_has_the_same_bytes_each_time(store):
    step = Statistics(features=Features(samples=REFERENCE, network=INCEPTION, front_end="adm")[:200])
    other = MemoryStore(f"measure-{next(NUMBERS)}")
    judged(other, REFERENCE, REAL)
    found = []
    for place in (store, other):
        complete(step, place)
        found.append(result_of(step, place))
    assert found[0] == found[1] and "mu" in np.load(io.BytesIO(found[0]))


# Evaluate


def arms(store, starts, seeding="edm"):
    """Returns slices [start, start + 40) of seed 0, with features."""
    found = []
    for place, start in enumerate(starts):
        part = generated(store, start, start + 40, seeding=seeding, shard_size=20)
        judged(store, part, rows_of(10 + place, 40), front_end="edm")
        found.append(part)
    return tuple(found)


def evaluated(store, table, **fields):
    target = Evaluate(arms=table, features=INCEPTION, reference=REFERENCE, protocol="edm", **fields)
    complete(target, store)
    return json.loads(result_of(target, store))


@pytest.mark.usefixtures("small_protocols")
def test_the_lowest_fid_is_named_for_the_three_published_seed_ranges_and_for_nothing_else(store):
    judged(store, REFERENCE, REAL, front_end="edm")
    table = {
        "published": arms(store, (0, 40, 80)),
        "shifted": arms(store, (0, 40, 120)),
        "two": arms(store, (0, 40)),
    }
    table["ours"] = arms(store, (0, 40, 80), seeding="counter")
    found = evaluated(store, table)["arms"]
    fids = found["published"]["fid"]["per_seed"]
    assert found["published"]["lowest"] == {
        "label": "lowest of 3 seed ranges, as published",
        "fid": min(fids),
    }
    assert found["published"]["fid"]["mean"] == pytest.approx(np.mean(fids)) and len(set(fids)) == 3
    assert [found[name]["lowest"] for name in ("shifted", "two", "ours")] == [None] * 3


@pytest.mark.usefixtures("small_protocols")
def test_without_fid_there_is_no_lowest(store):
    judged(store, REFERENCE, REAL, front_end="edm")
    found = evaluated(store, {"published": arms(store, (0, 40, 80))}, metrics=("kid",))
    assert found["arms"]["published"]["lowest"] is None


def test_the_spread_over_seeds_is_the_sample_standard_deviation_of_the_measures(store):
    judged(store, REFERENCE, REAL, front_end="edm")
    parts = arms(store, (0, 40, 80), seeding="counter")
    found = evaluated(store, {"arm": parts}, floor=parts[0])
    values = [measured(store, part, reference=REFERENCE, protocol="edm").values["fid"] for part in parts]
    assert found["arms"]["arm"]["fid"]["per_seed"] == values
    assert found["arms"]["arm"]["fid"]["spread"] == pytest.approx(np.std(values, ddof=1), rel=1e-12)
    assert found["floor"] == {"fid": values[0], "n": 40}


def test_the_floors_own_warnings_are_kept(store):
    judged(store, REFERENCE, REAL, front_end="edm")
    floor, rows = image_set("floor", 40), rows_of(20, 40)
    rows["constant"][[5, 6]] = True
    judged(store, floor, rows, front_end="edm")
    found = evaluated(store, {"arm": arms(store, (0,))}, floor=floor)
    assert found["floor"]["warnings"] == ["2 of 40 images have a single colour: index 5, 6"]


class Elsewhere(ResultStep):
    """Bits per dimension of arms, from another step."""

    quantities: ClassVar = {"bits": Metric("bits/dim", 3)}
    bits: dict[str, float]

    def compute(self, inputs, spread, store) -> bytes:
        return json.dumps(self.bits).encode()

    def compared(self, content):
        return {
            name: {"bits": {"mean": value, "spread": None, "per_seed": [value]}, "unknown": {}}
            for name, value in json.loads(content).items()
        }


def test_what_results_beside_it_measure_of_an_arm_is_in_the_arms_row(store):
    judged(store, REFERENCE, REAL, front_end="edm")
    one, two = arms(store, (0, 40))
    bits = Elsewhere(bits={"second": 2.5512, "third": 1.0}).result()
    table = {"first": (one,), "second": (two,)}
    target = Evaluate(
        arms=table, features=INCEPTION, reference=REFERENCE, protocol="edm", floor=one, beside=(bits,)
    )
    complete(target, store)
    found = json.loads(result_of(target, store))["arms"]
    assert found.keys() == {"first", "second"} and "bits" not in found["first"]
    assert found["second"]["bits"]["mean"] == 2.5512 and "unknown" not in found["second"]
    heading, *rows = table_rows(summarise(target, store))
    assert heading == ["", "FID", "bits/dim", "samples", "seeds"]
    assert [row[2] for row in rows] == ["", "2.551", ""]

    without = Evaluate(arms=table, features=INCEPTION, reference=REFERENCE, protocol="edm", floor=one)
    assert without.columns == without.quantities and without.fingerprint != target.fingerprint
    with pytest.raises(ValueError, match=r"beside.1: .*'bits' of elsewhere.*leave one out"):
        target.model_copy(update={"beside": (bits, bits)})


def test_a_result_that_is_there_is_not_computed_again(store):
    measured(store, SAMPLES, reference=REFERENCE)
    before = store.list("")
    measured(store, SAMPLES.model_copy(update={"source": "elsewhere/samples.npz"}), reference=REFERENCE)
    assert store.list("") == before


def test_an_arm_more_costs_only_what_is_new_in_it(store):
    judged(store, REFERENCE, REAL, front_end="edm")
    one, two = arms(store, (0, 40))
    evaluated(store, {"first": (one,)})
    target = Evaluate(
        arms={"first": (one,), "second": (two,)}, features=INCEPTION, reference=REFERENCE, protocol="edm"
    )
    new = [made.step for made in plan(target, store) if made.action != "reuse"]
    assert [step.kind for step in new] == ["measure", "evaluate"]
    assert isinstance(new[0], Measure) and new[0].samples == two


# Reading as little as necessary


def test_metrics_that_need_no_reference_images_read_none(tmp_path, store):
    file = statistics_file(tmp_path / "published.npz", known=False)
    step = Measure(
        samples=SAMPLES,
        reference=REFERENCE,
        statistics=file,
        features=INCEPTION,
        protocol="adm",
        metrics=("fid", "is"),
    )
    assert list(step.inputs()) == ["samples"]

"""Refusals, warnings and notes of Measure."""

import numpy as np
import pytest
from metrics.in_memory import inception_score
from steps.judging import INCEPTION, generated, image_set, judged, measured, rows_of
from steps.measuring import FAKE, REFERENCE, SAMPLES, small_protocols, statistics_file, store

from dgflow import Generate
from dgflow.steps.judging.comparison import comparison
from dgflow.steps.judging.measure import Measure
from dgflow.steps.sources.image_set import StatisticsFile

__all__ = ["store", "small_protocols"]


# Refusals


@pytest.mark.parametrize(
    ("metric", "fields", "says"),
    [
        (
            "precision",
            {"reference": None},
            "precision cannot be measured: the reference holds statistics and no images",
        ),
        ("kid", {"reference": None}, "kid cannot be measured: the reference holds statistics and no images"),
        ("is", {"samples": None}, "is cannot be measured: mean.npz holds statistics and no images"),
        ("recall", {"samples": None}, "recall cannot be measured: mean.npz holds statistics and no images"),
        ("sfid", {"samples": None}, "sfid cannot be measured: mean.npz holds no mu_s and sigma_s"),
        (
            "sfid",
            {"protocol": None},
            "sfid cannot be measured: sFID needs Inception's features, and these are another network's",
        ),
    ],
)
def test_a_metric_that_cannot_be_had_is_refused_with_the_reason(tmp_path, metric, fields, says):
    file = statistics_file(tmp_path / "mean.npz", width=2048, spatial=0)
    given = {
        "samples": SAMPLES,
        "reference": REFERENCE,
        "features": INCEPTION,
        "protocol": "adm",
        "metrics": (metric,),
    } | fields
    if given["reference"] is None:
        given["statistics"] = file
    if given["samples"] is None:
        given["samples"] = file
    with pytest.raises(ValueError, match=says):
        Measure(**given)


def test_without_any_reference_nothing_is_measured():
    with pytest.raises(ValueError, match="expected a reference: images, statistics .* found neither"):
        Measure(samples=SAMPLES, features=INCEPTION, protocol="adm")


def test_images_without_a_network_are_refused():
    with pytest.raises(ValueError, match="expected the weights of the feature network"):
        Measure(samples=SAMPLES, reference=REFERENCE, protocol="adm")


@pytest.mark.parametrize(("widths", "metric"), [((64, 3), "FID"), ((2048, 768), "sFID")])
def test_statistics_of_another_layer_are_refused_before_any_image_is_looked_at(tmp_path, widths, metric):
    file = statistics_file(tmp_path / "other.npz", width=widths[0], spatial=widths[1])
    with pytest.raises(
        ValueError,
        match=rf"other.npz: expected statistics of 2,0\d\d features for {metric}, as Inception has, found ",
    ):
        Measure(samples=SAMPLES, statistics=file, features=INCEPTION, protocol="adm")


def test_two_statistics_of_different_widths_are_refused(tmp_path):
    files = [statistics_file(tmp_path / f"{width}.npz", width=width, spatial=0) for width in (6, 7)]
    with pytest.raises(
        ValueError, match="7.npz: expected statistics of 6 features for FID, as the other side has, found 7"
    ):
        Measure(samples=files[0], statistics=files[1])


def test_statistics_that_do_not_fit_the_features_are_refused(store, tmp_path):
    file = statistics_file(tmp_path / "other.npz", width=7, known=False)
    with pytest.raises(ValueError, match="FID: expected reference statistics of 6 features, found 7"):
        measured(store, SAMPLES, statistics=file)


def test_statistics_without_spatial_features_are_refused_for_sfid_when_they_are_read(store, tmp_path):
    file = statistics_file(tmp_path / "mean.npz", spatial=0, known=False)
    with pytest.raises(
        ValueError, match=r"mean.npz: expected mu_s and sigma_s for sFID, found \['mu', 'sigma'\]"
    ):
        measured(store, SAMPLES, statistics=file)


def test_arrays_of_other_names_are_refused_with_those_that_are_expected(tmp_path):
    np.savez(tmp_path / "other.npz", mean=np.zeros(3), cov=np.eye(3))
    with pytest.raises(
        ValueError, match=r"images \(an array arr_0.* or statistics .* in .*, found .*'cov', 'mean'"
    ):
        comparison(str(tmp_path / "other.npz"), str(tmp_path / "other.npz"), "edm")


def test_slices_of_one_step_that_overlap_are_refused(store):
    samples = generated(store, 0, 40, shard_size=20)
    assert isinstance(samples.step, Generate)
    with pytest.raises(ValueError, match=r"measured against themselves: .* \[20:60\]"):
        Measure(samples=samples, reference=samples.step[20:60], features=INCEPTION, protocol="adm")
    Measure(samples=samples, reference=samples.step[40:80], features=INCEPTION, protocol="adm")


# Notes and warnings


def test_by_default_what_cannot_be_had_is_left_out_and_noted(store, tmp_path):
    file = statistics_file(tmp_path / "published.npz", known=False)
    found = measured(store, SAMPLES, statistics=file)
    assert set(found.values) == {"fid", "sfid", "is"}
    for name in ("precision", "recall", "F1"):
        assert f"not measured: {name}, since the reference holds statistics and no images" in found.notes


def test_sfid_is_left_out_where_statistics_have_none_of_it(store, tmp_path):
    files = [
        statistics_file(tmp_path / f"{seed}.npz", seed=seed, spatial=spatial)
        for seed, spatial in ((1, 3), (2, 0))
    ]
    found = measured(store, files[0], statistics=files[1], features=None)
    assert list(found.values) == ["fid"]
    assert "not measured: sFID, since 2.npz holds no mu_s and sigma_s" in found.notes


def test_metrics_of_no_protocol_are_noted(store):
    assert any(
        "not part of protocol adm" in note and "KID" in note
        for note in measured(store, SAMPLES, reference=REFERENCE, metrics=("kid",)).notes
    )


def test_fewer_samples_than_the_protocol_takes_are_warned_of(store):
    found = measured(store, SAMPLES, reference=REFERENCE)
    assert any("240 samples, but protocol adm uses 50,000" in line for line in found.warnings)
    assert any("use 200 reference images, but protocol adm uses 10,000" in line for line in found.warnings)


def test_fewer_samples_than_features_are_warned_of(store):
    few = image_set("few", 6)
    judged(store, few, rows_of(4, 6))
    found = measured(store, few, reference=REFERENCE, metrics=("fid", "sfid"))
    assert any(
        "FID is not meaningful: the covariance of 6 features from 6 samples" in line
        for line in found.warnings
    )
    assert found.errors["fid"] is None  # 10 are needed


def test_constant_and_repeated_images_are_warned_of_with_their_number(store):
    rows = rows_of(6, 240)
    rows["constant"][[7, 11]] = True
    rows["pixels"][[50, 120, 130]] = rows["pixels"][3]
    judged(store, image_set("spoilt", 240), rows)
    warnings = measured(store, image_set("spoilt", 240), reference=REFERENCE, metrics=("fid",)).warnings
    assert any("2 of 240 images have a single colour: index 7, 11" in line for line in warnings)
    assert any(
        "3 of 240 images repeat an earlier one pixel for pixel; the first is index 50, equal to index 3"
        in line
        for line in warnings
    )


def test_labels_that_are_far_from_uniform_are_warned_of(store):
    rows = rows_of(6, 240)
    rows["label"][:120] = 3
    judged(store, image_set("uneven", 240), rows)
    warnings = measured(store, image_set("uneven", 240), reference=REFERENCE, metrics=("fid",)).warnings
    assert any("labels are far from uniform" in line and "most: class 3" in line for line in warnings)


def test_classes_that_the_network_has_and_no_sample_is_of_are_warned_of(store):
    samples, rows = generated(store, 0, 240), rows_of(6, 240)
    judged(store, samples, rows | {"label": rows["label"] % 7})
    warnings = measured(store, samples, reference=REFERENCE, metrics=("fid",)).warnings
    assert any("missing: class 7, 8, 9" in line for line in warnings)


def test_samples_without_labels_or_of_all_classes_alike_are_not_warned_of(store):
    judged(store, image_set("unlabelled", 240), rows_of(6, 240) | {"label": np.full(240, -1)})
    for samples in (SAMPLES, image_set("unlabelled", 240)):
        assert not any(
            "label" in line
            for line in measured(store, samples, reference=REFERENCE, metrics=("fid",)).warnings
        )


def test_two_statistics_of_another_network_are_warned_of_under_a_protocol(store, tmp_path):
    files = [statistics_file(tmp_path / f"{seed}.npz", seed=seed, width=768, spatial=0) for seed in (1, 2)]
    warnings = measured(store, files[0], statistics=files[1], features=None).warnings
    assert warnings == [
        f"{name}.npz: statistics of 768 features, but FID of protocol adm is of Inception's 2,048: do not "
        "compare with published numbers"
        for name in (1, 2)
    ]


@pytest.mark.parametrize(("images", "warned"), [(2, True), (6, True), (7, False)])
def test_statistics_of_no_more_images_than_features_are_warned_of(store, tmp_path, images, warned):
    rows = rows_of(3, images)["features"].astype(np.float64)
    np.savez(tmp_path / "few.npz", mu=rows.mean(0), sigma=np.cov(rows.T))
    few, whole = StatisticsFile.at(str(tmp_path / "few.npz")), statistics_file(tmp_path / "whole.npz")
    found = measured(store, few, statistics=whole, features=None, protocol=None, metrics=("fid",))
    expected = ["few.npz: sigma is singular, as for no more images than features, so FID is mostly bias"]
    assert [line.partition(";")[0] for line in found.warnings] == expected * warned


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_statistics_of_a_feature_that_is_the_same_for_all_images_are_not_those_of_few_images(
    store, tmp_path, value
):
    rows = rows_of(3, 200)["features"].astype(np.float64)
    rows[:, 0] = value
    np.savez(tmp_path / "dead.npz", mu=rows.mean(0), sigma=np.cov(rows.T))
    dead, whole = StatisticsFile.at(str(tmp_path / "dead.npz")), statistics_file(tmp_path / "whole.npz")
    found = measured(store, dead, statistics=whole, features=None, protocol=None, metrics=("fid",))
    assert not found.warnings


# The reference is checked like the samples


def warnings_of_reference(store, rows, **fields):
    """Returns the warnings of `SAMPLES` against a reference of these rows."""
    reference = image_set("other", len(rows["label"]))
    judged(store, reference, rows)
    return measured(store, SAMPLES, reference=reference, **({"metrics": ("fid",)} | fields)).warnings


@pytest.mark.parametrize("metrics", [("fid",), ("precision",)])
def test_a_reference_that_repeats_itself_is_warned_of(store, metrics):
    once = rows_of(2, 50)
    rows = {name: np.concatenate([values] * 4) for name, values in once.items()}
    warning = "reference: 150 of 200 images repeat an earlier one pixel for pixel; the first is index 50, "
    assert f"{warning}equal to index 0" in warnings_of_reference(store, rows, metrics=metrics)


def test_a_reference_of_constant_images_is_warned_of(store):
    rows = rows_of(2, 200)
    rows["constant"][[3, 9]] = True
    assert "reference: 2 of 200 images have a single colour: index 3, 9" in warnings_of_reference(store, rows)


def test_a_reference_of_fewer_images_than_features_is_warned_of(store):
    few = "features from the reference's 6 images is singular"
    assert any(few in line for line in warnings_of_reference(store, rows_of(2, 6)))
    warnings = warnings_of_reference(store, rows_of(2, 7))
    assert not any("reference's" in line for line in warnings)


def test_other_class_counts_than_the_references_are_warned_of(store):
    rows = rows_of(2, 200)
    rows["label"][:100] = 3  # 109 of 200, and 24 of 240 samples
    (warning,) = [line for line in warnings_of_reference(store, rows) if "reference differ" in line]
    assert "class 3 is 10.0% of the samples and 54.5% of the reference" in warning


@pytest.mark.parametrize("label", [None, -1])
def test_class_counts_that_are_alike_or_unknown_are_not_warned_of(store, label):
    rows = rows_of(2, 200)
    if label is not None:
        rows["label"][:150] = label
    assert not any("reference differ" in line for line in warnings_of_reference(store, rows))


def test_samples_that_are_in_the_reference_are_warned_of_with_their_number(store):
    rows = rows_of(2, 200)
    rows["pixels"][[4, 5]] = FAKE["pixels"][[17, 30]]
    assert (
        "2 of 240 samples equal an image of the reference pixel for pixel: index 17, 30"
        in warnings_of_reference(store, rows)
    )


# The order of the samples


@pytest.mark.usefixtures("small_protocols")
@pytest.mark.parametrize("labels", [True, False])
def test_an_inception_score_of_samples_in_the_order_of_their_classes_is_told_with_that_of_a_random_order(
    store, labels
):
    rows = rows_of(6, 240)
    order = np.argsort(rows["label"], kind="stable")
    rows["logits"] += 8 * np.eye(10, dtype=np.float32)[rows["label"]]
    shuffled = np.random.RandomState(2020).permutation(240)
    in_order = {name: values[order] for name, values in rows.items()}
    if not labels:
        in_order["label"] = np.full(240, -1)
    judged(store, image_set("sorted", 240), in_order)
    found = measured(store, image_set("sorted", 240), reference=REFERENCE, metrics=("is",))
    (warning,) = [line for line in found.warnings if "random order" in line]
    expected = inception_score(in_order["logits"][shuffled], 60)
    assert f"is {expected.mean:.3f}, with a standard deviation of {expected.std:.2g}" in warning
    assert ("sorted by class" if labels else "predicted classes") in warning
    assert found.values["is"] == inception_score(in_order["logits"], 60).mean < 0.6 * expected.mean


@pytest.mark.usefixtures("small_protocols")
def test_an_inception_score_of_samples_in_random_order_is_not_warned_of(store):
    found = measured(store, SAMPLES, reference=REFERENCE, metrics=("is",))
    assert not any("order" in line for line in found.warnings)


def test_samples_that_are_the_reference_are_warned_of(store):
    found = measured(
        store, SAMPLES, reference=SAMPLES.model_copy(update={"source": "copy.npz"}), metrics=("fid",)
    )
    assert any("the same images" in line for line in found.warnings)
    assert found.values["fid"] < 1e-10

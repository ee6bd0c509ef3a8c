"""What `Measure` computes: the numbers, with what they depend on and what is odd about them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from dgflow.metrics import checks
from dgflow.metrics.frechet import Gaussian, Moments, frechet_distance
from dgflow.metrics.frechet_error import FrechetInfluence
from dgflow.metrics.inception_score import InceptionScore
from dgflow.metrics.protocols import HEADINGS, PROTOCOLS, outside_protocol
from dgflow.metrics.result import MetricResult, Provenance, share_error, split_error, subset_error
from dgflow.runtime.environment import versions
from dgflow.steps.binding import Bound, BoundRows
from dgflow.steps.feature_passes import Population, Sums, influence, kernel_distances, neighbours, summed
from dgflow.steps.generate import Generate
from dgflow.steps.image_set import ImageSet, StatisticsFile
from dgflow.steps.measure import FRECHET, Measure
from dgflow.steps.shapes import data_shape
from dgflow.steps.statistics import NAMES
from dgflow.steps.step import Slice, Spread

_FEW = 10  # samples a feature, below which the first order is a rough measure of a Fréchet distance's spread (`frechet_error`)


def measured(step: Measure, inputs: Bound, spread: Spread) -> MetricResult:
    """The numbers, with what they depend on and what is odd about them."""
    values: dict[str, float] = {}
    errors: dict[str, float | None] = {}
    spreads: dict[str, float] = {}
    sums = None if isinstance(step.samples, StatisticsFile) else _sums(step, inputs, step.samples.rows, spread)
    for metric, column in FRECHET.items():
        if metric in step.wanted:
            values[metric], errors[metric] = _frechet(step, inputs, sums, column, spread)
    if sums is not None:
        assert not isinstance(step.samples, StatisticsFile)
        if "is" in step.wanted:
            score = InceptionScore.of(sums.scores.total())
            values["is"], spreads["is"] = score.mean, score.std
            errors["is"] = split_error(score.std, len(score.per_split))
        if set(step.wanted) & {"precision", "recall", "f1"}:
            shared = neighbours(*_populations(step, inputs, _manifold(step), spread), step.neighbours, step.distances, spread)
            values |= {"precision": shared.precision, "recall": shared.recall, "f1": shared.f1}
            errors["precision"] = share_error(shared.precision, step.samples.rows)
        if "kid" in step.wanted:
            found = _kid(step, inputs, spread)
            values["kid"], spreads["kid"] = float(found.mean()), float(found.std())
            errors["kid"] = subset_error(spreads["kid"], len(found), _kid_subset_size(step), step.samples.rows)
    return MetricResult(
        values={name: values[name] for name in step.wanted},
        errors={name: error for name, error in errors.items() if name in step.wanted},
        spreads=spreads,
        provenance=_provenance(step, inputs),
        warnings=_warnings(step, inputs, sums),
        notes=_notes(step, sums, errors),
    )


def _sums(step: Measure, inputs: Bound, rows: int, spread: Spread) -> Sums:
    columns = [column for metric, column in FRECHET.items() if metric in step.wanted]
    return summed(inputs, "samples", rows, [*columns, *(["logits"] if "is" in step.wanted else [])], step.yardstick.split_size, spread)


def _frechet(step: Measure, inputs: Bound, sums: Sums | None, column: str, spread: Spread) -> tuple[float, float | None]:
    """The Fréchet distance in `column`, and its standard error; None where that is not known."""
    reference = _reference(step, inputs, column)
    if sums is None:
        assert isinstance(step.samples, StatisticsFile)
        return frechet_distance(_gaussian(step.samples.read(), column, step.samples.title), reference), None
    moments: Moments = sums.moments[column].total()
    checks.check_statistics(len(reference.mean), len(moments.mean), HEADINGS["fid" if column == "features" else "sfid"])
    distance = frechet_distance(moments, reference)
    try:
        found = FrechetInfluence.of(moments, reference)
    except ValueError:  # too few samples, of which there is a warning already
        return distance, None
    return distance, influence(inputs, "samples", moments.n, column, found, spread).total().standard_error


def _reference(step: Measure, inputs: Bound, column: str) -> Gaussian:
    if step.statistics is not None:
        return _gaussian(step.statistics.read(), column, step.statistics.title)
    with np.load(io.BytesIO(inputs.result("statistics")), allow_pickle=False) as arrays:
        return _gaussian(arrays, column, "the reference")


def _manifold(step: Measure) -> np.ndarray | None:
    """Positions of the reference's images for precision and recall, where a protocol takes fewer than there are; None: all."""
    assert step.reference is not None
    size = step.yardstick.manifold_images
    if size is None or step.reference.rows <= size:
        return None
    # A folder is in the order of its classes, so the first ones would not do.
    return np.sort(np.random.RandomState(0).permutation(step.reference.rows)[:size])


def _populations(step: Measure, inputs: Bound, manifold: np.ndarray | None, spread: Spread) -> tuple[Population, Population]:
    assert step.reference is not None and not isinstance(step.samples, StatisticsFile)
    whole = Population(inputs, "reference", step.reference.rows)
    real = whole if manifold is None else Population.at(manifold, inputs, "reference", spread)
    return real, Population(inputs, "samples", step.samples.rows)


def _kid_subset_size(step: Measure) -> int:
    """The protocol's, or all of the smaller set where that has fewer."""
    assert step.reference is not None and not isinstance(step.samples, StatisticsFile)
    return min(step.yardstick.kid_subset_size, step.reference.rows, step.samples.rows)


def _kid(step: Measure, inputs: Bound, spread: Spread) -> np.ndarray:
    """The kernel distance of every subset."""
    real, fake = _populations(step, inputs, None, spread)
    return kernel_distances(real, fake, step.yardstick.kid_subsets, _kid_subset_size(step), step.yardstick.kid_seed, spread)


def _provenance(step: Measure, inputs: Bound) -> Provenance:
    behind = next((item.manifest.inputs for item in inputs.items.values() if isinstance(item, BoundRows)), {})
    seeds = _seeds(step.samples)
    return Provenance(
        protocol=step.yardstick.name,
        front_end=step.yardstick.front_end,
        n=None if isinstance(step.samples, StatisticsFile) else step.samples.rows,
        seed=seeds.seed,
        seeding=seeds.seeding,
        start=seeds.start,
        stop=seeds.stop,
        samples_digest=_digest(inputs, "samples", step.samples),
        reference_digest=None if step.compared is None else _digest(inputs, "reference", step.compared),
        reference_n=None if step.compared is None else step.compared.rows,
        statistics_digest=None if step.statistics is None else step.statistics.digest,
        network_digest=behind.get("network"),
        k=step.neighbours,
        distances=step.distances,
        split_size=step.yardstick.split_size,
        kid_subsets=step.yardstick.kid_subsets,
        kid_subset_size=_kid_subset_size(step) if "kid" in step.wanted else step.yardstick.kid_subset_size,
        kid_seed=step.yardstick.kid_seed,
        dgflow_version=versions()["dgflow"],
    )


def _warnings(step: Measure, inputs: Bound, sums: Sums | None) -> list[str]:
    if sums is None:
        return []
    assert not isinstance(step.samples, StatisticsFile)
    protocol = PROTOCOLS.get(step.yardstick.name)
    found: list[str] = []
    for metric, column in FRECHET.items():
        if metric in step.wanted:
            width = len(sums.moments[column].total().sum)
            found += [line for line in checks.sample_count(step.samples.rows, width, protocol, HEADINGS[metric]) if line not in found]
    if set(step.wanted) & {"precision", "recall", "f1"}:
        manifold = _manifold(step)
        assert step.reference is not None
        found += checks.manifold_count(step.reference.rows if manifold is None else len(manifold), protocol)
    labels = sums.fact("label")
    found += checks.class_balance(labels, _classes(step) or int(labels.max()) + 1)
    found += checks.constant_images(np.flatnonzero(sums.fact("constant")).tolist(), step.samples.rows)
    found += checks.repeated_images([value.tobytes() for value in sums.fact("pixels")])
    if step.compared is not None and _digest(inputs, "samples", step.samples) == _digest(inputs, "reference", step.compared):
        found.append("samples and reference are the same images: this measures nothing")
    return found


def _classes(step: Measure) -> int:
    """How many classes the samples can have, 0 where nobody says."""
    return data_shape(step.samples.step).num_classes if isinstance(step.samples, Slice) else 0


def _notes(step: Measure, sums: Sums | None, errors: Mapping[str, float | None]) -> list[str]:
    found = outside_protocol(step.yardstick, step.wanted)
    for metric, column in FRECHET.items():
        if sums is not None and errors.get(metric) is not None:
            moments = sums.moments[column].total()
            if moments.n < _FEW * len(moments.sum):
                found.append(
                    f"± of {HEADINGS[metric]} is rough with fewer than {_FEW} samples a feature: in trials 0.7 to 2 times the true spread"
                )
    if step.metrics is None:
        left_out = {name: step.lacking(name) for name in step.yardstick.metrics if step.lacking(name)}
        found += [f"not measured: {HEADINGS[name]}, since {why}" for name, why in left_out.items()]
    if set(step.wanted) & {"precision", "recall", "f1"} and _manifold(step) is not None:
        assert step.reference is not None and step.yardstick.manifold_images is not None
        found.append(
            f"precision and recall use {step.yardstick.manifold_images:,} of the reference's {step.reference.rows:,} images, drawn once "
            "for all by a fixed seed"
        )
    return found


class _Seeds(NamedTuple):
    seed: int | None = None
    seeding: Literal["counter", "edm"] | None = None
    start: int | None = None
    stop: int | None = None


def _seeds(part: Slice | ImageSet | StatisticsFile) -> _Seeds:
    """With what samples were drawn, as far as that is known."""
    if isinstance(part, Slice):  # the seed of real images is that of their order
        return _Seeds(part.step.seed, part.step.seeding, part.start, part.stop) if isinstance(part.step, Generate) else _Seeds()
    if isinstance(part, ImageSet) and part.start is not None:
        return _Seeds(part.seed, part.seeding, part.start, part.start + part.rows)
    return _Seeds()


def _digest(inputs: Bound, name: str, part: Slice | ImageSet | StatisticsFile) -> str:
    """Of the images, not of their features: what features were made from stands in their manifest."""
    if not isinstance(part, Slice):
        return part.digest
    item = inputs.items[name]
    assert isinstance(item, BoundRows)
    return item.manifest.inputs["samples"]


def _gaussian(arrays: Mapping[str, np.ndarray], column: str, where: str) -> Gaussian:
    mean, covariance = NAMES[column]
    if mean not in arrays or covariance not in arrays:
        raise ValueError(
            f"{where}: expected {mean} and {covariance} for {'FID' if column == 'features' else 'sFID'}, found {sorted(arrays)}"
        )
    return Gaussian(arrays[mean], arrays[covariance])

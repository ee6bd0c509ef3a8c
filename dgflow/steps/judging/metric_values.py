"""The computation of `Measure`: the numbers, with their provenance, warnings and notes."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np

from dgflow.metrics import checks
from dgflow.metrics.frechet import Gaussian, Moments, frechet_distance
from dgflow.metrics.frechet_error import FrechetInfluence
from dgflow.metrics.inception_score import InceptionScore
from dgflow.metrics.protocols import HEADINGS, OF_NEIGHBOURS, PROTOCOLS, outside_protocol
from dgflow.metrics.result import MetricResult, Provenance, share_error, split_error, subset_error
from dgflow.runtime.environment import versions
from dgflow.specs.bound import Bound, BoundRows
from dgflow.specs.graph import graph
from dgflow.specs.step import Slice, Spread
from dgflow.steps.judging.feature_passes import (
    Population,
    Sums,
    influence,
    kernel_distances,
    neighbours,
    summed,
)
from dgflow.steps.judging.measure_fields import FRECHET, MeasureFields
from dgflow.steps.judging.statistics import NAMES
from dgflow.steps.sources.image_set import ImageSet, StatisticsFile
from dgflow.store.shards import rows_sha256

# Samples a feature, below which the first order is a rough measure of a Fréchet distance's spread
# (`frechet_error`)
_FEW = 10


def measured(step: MeasureFields, inputs: Bound, spread: Spread) -> MetricResult:
    """The numbers, with their provenance, warnings and notes."""
    values: dict[str, float] = {}
    errors: dict[str, float | None] = {}
    spreads: dict[str, float] = {}
    sums = None if step.images is None else _sums(step, inputs, step.images.rows, spread)
    moments = {} if sums is None else sums.totals()
    for metric, column in FRECHET.items():
        if metric in step.wanted:
            values[metric], errors[metric] = _frechet(step, inputs, metric, moments.get(column), spread)
    warnings = _made_up(step)
    if sums is not None and step.images is not None:
        rows = step.images.rows
        if "is" in step.wanted:
            score = InceptionScore.of(sums.scores.total())
            values["is"], spreads["is"] = score.mean, score.std
            errors["is"] = split_error(score.std, len(score.per_split))
        if step.reference is not None and set(step.wanted) & set(OF_NEIGHBOURS):
            real = _manifold(step, step.reference, inputs, spread)
            fake = Population(inputs, "samples", rows)
            shared = neighbours(real, fake, step.neighbours, step.distances, spread)
            values |= {"precision": shared.precision, "recall": shared.recall, "f1": shared.f1}
            errors["precision"] = share_error(shared.precision, rows)
        if step.reference is not None and "kid" in step.wanted:
            real = Population(inputs, "reference", step.reference.rows)
            fake, size, protocol = Population(inputs, "samples", rows), _kid_subset_size(step), step.yardstick
            distances = kernel_distances(real, fake, protocol.kid_subsets, size, protocol.kid_seed, spread)
            values["kid"], spreads["kid"] = float(distances.mean()), float(distances.std())
            errors["kid"] = subset_error(spreads["kid"], len(distances), size, rows)
        warnings += _warnings(step, step.images, inputs, sums, moments)
    return MetricResult(
        values={name: values[name] for name in step.wanted},
        errors={name: error for name, error in errors.items() if name in step.wanted},
        spreads=spreads,
        provenance=_provenance(step, inputs),
        warnings=warnings,
        notes=_notes(step, moments, errors),
    )


def _sums(step: MeasureFields, inputs: Bound, rows: int, spread: Spread) -> Sums:
    columns = [column for metric, column in FRECHET.items() if metric in step.wanted]
    columns += ["logits"] if "is" in step.wanted else []
    return summed(inputs, "samples", rows, columns, step.yardstick.split_size, spread)


def _frechet(
    step: MeasureFields, inputs: Bound, metric: str, moments: Moments | None, spread: Spread
) -> tuple[float, float | None]:
    """A Fréchet distance and its standard error, None where that is not known.

    `moments` are the samples', None where only their statistics are given.
    """
    reference = _reference(step, inputs, metric)
    if moments is None:
        assert isinstance(step.samples, StatisticsFile)
        return frechet_distance(_gaussian(step.samples.read(), metric, step.samples.title), reference), None
    checks.check_statistics(len(reference.mean), len(moments.mean), HEADINGS[metric])
    distance = frechet_distance(moments, reference)
    try:
        influences = FrechetInfluence.of(moments, reference)
    except ValueError:  # too few samples: there is a warning already
        return distance, None
    sums = influence(inputs, "samples", moments.n, FRECHET[metric], influences, spread)
    return distance, sums.total().standard_error


def _reference(step: MeasureFields, inputs: Bound, metric: str) -> Gaussian:
    if isinstance(step.statistics, StatisticsFile):
        return _gaussian(step.statistics.read(), metric, step.statistics.title)
    title = "the reference" if step.published is None else step.published.title
    return _gaussian(_arrays(inputs), metric, title)


def _arrays(inputs: Bound) -> dict[str, np.ndarray]:
    """The arrays of the step of statistics, by name."""
    with np.load(io.BytesIO(inputs.result("statistics")), allow_pickle=False) as arrays:
        return dict(arrays)


def _manifold_size(step: MeasureFields, reference: Slice | ImageSet) -> int:
    """The number of the reference's images for precision and recall: all, unless the protocol takes fewer."""
    return min(reference.rows, step.yardstick.manifold_images or reference.rows)


def _manifold(step: MeasureFields, reference: Slice | ImageSet, inputs: Bound, spread: Spread) -> Population:
    """The reference's images for precision and recall."""
    size = _manifold_size(step, reference)
    if size == reference.rows:
        return Population(inputs, "reference", size)
    # A folder is in the order of its classes, so the first ones would not do.
    chosen = np.random.RandomState(0).permutation(reference.rows)[:size]
    return Population.at(np.sort(chosen), inputs, "reference", spread)


def _kid_subset_size(step: MeasureFields) -> int:
    """The protocol's, or the size of the smaller set where that has fewer."""
    return min(step.yardstick.kid_subset_size, *(part.rows for part in (step.reference, step.images) if part))


def _provenance(step: MeasureFields, inputs: Bound) -> Provenance:
    behind = next((item.manifest.inputs for item in inputs.items.values() if isinstance(item, BoundRows)), {})
    return Provenance(
        protocol=step.yardstick.name,
        front_end=step.yardstick.front_end,
        n=None if step.images is None else step.images.rows,
        **step.samples.drawn._asdict(),
        samples_digest=_digest(inputs, "samples", step.samples),
        reference_digest=None if step.compared is None else _digest(inputs, "reference", step.compared),
        reference_n=None if step.compared is None else step.compared.rows,
        statistics_digest=_statistics_digest(step, inputs),
        network_digest=behind.get("network"),
        k=step.neighbours,
        distances=step.distances,
        split_size=step.yardstick.split_size,
        kid_subsets=step.yardstick.kid_subsets,
        kid_subset_size=_kid_subset_size(step) if "kid" in step.wanted else step.yardstick.kid_subset_size,
        kid_seed=step.yardstick.kid_seed,
        dgflow_version=versions()["dgflow"],
    )


def _statistics_digest(step: MeasureFields, inputs: Bound) -> str | None:
    """The digest of the numbers alone, the same for a published file wherever it was fetched from."""
    if isinstance(step.statistics, StatisticsFile):
        return step.statistics.digest
    return rows_sha256(_arrays(inputs)) if step.published and "statistics" in inputs.items else None


def _made_up(step: MeasureFields) -> list[str]:
    """One text, whatever is made up, so that a table has it once."""
    if not any(node.step.is_made_up for node in graph(step)):
        return []
    return [
        "a smoke run: random weights or statistics stand in for trained or published ones; these numbers "
        "compare with nothing"
    ]


def _warnings(
    step: MeasureFields, images: Slice | ImageSet, inputs: Bound, sums: Sums, moments: Mapping[str, Moments]
) -> list[str]:
    protocol = PROTOCOLS.get(step.yardstick.name)
    warnings: list[str] = []
    for metric, column in FRECHET.items():
        if metric in step.wanted:
            width = len(moments[column].sum)
            counted = checks.sample_count(images.rows, width, protocol, HEADINGS[metric])
            warnings += [line for line in counted if line not in warnings]
    if step.reference is not None and set(step.wanted) & set(OF_NEIGHBOURS):
        warnings += checks.manifold_count(_manifold_size(step, step.reference), protocol)
    labels = sums.fact("label")
    classes = images.step.shape.num_classes if isinstance(images, Slice) else 0
    warnings += checks.class_balance(labels, classes or int(labels.max()) + 1)
    warnings += checks.constant_images(np.flatnonzero(sums.fact("constant")).tolist(), images.rows)
    warnings += checks.repeated_images([value.tobytes() for value in sums.fact("pixels")])
    if step.compared is not None and _digest(inputs, "samples", step.samples) == _digest(
        inputs, "reference", step.compared
    ):
        warnings.append("samples and reference are the same images: this measures nothing")
    return warnings


def _notes(
    step: MeasureFields, moments: Mapping[str, Moments], errors: Mapping[str, float | None]
) -> list[str]:
    notes = outside_protocol(step.yardstick, step.wanted)
    for metric, column in FRECHET.items():
        if errors.get(metric) is not None and moments[column].n < _FEW * len(moments[column].sum):
            notes.append(
                f"± of {HEADINGS[metric]} is rough with fewer than {_FEW} samples a feature: in trials 0.7 "
                "to 2 times the true spread"
            )
    if step.metrics is None:
        left_out = {name: why for name in step.yardstick.metrics if (why := step.lacking(name))}
        notes += [f"not measured: {HEADINGS[name]}, since {why}" for name, why in left_out.items()]
    if step.reference is not None and set(step.wanted) & set(OF_NEIGHBOURS):
        size = _manifold_size(step, step.reference)
        if size < step.reference.rows:
            notes.append(
                f"precision and recall use {size:,} of the reference's {step.reference.rows:,} images, drawn "
                "once for all by a fixed seed"
            )
    return notes


def _digest(inputs: Bound, name: str, part: Slice | ImageSet | StatisticsFile) -> str:
    """The digest of the images behind features, from the manifest of these."""
    if not isinstance(part, Slice):
        return part.digest
    item = inputs.items[name]
    assert isinstance(item, BoundRows)
    return item.manifest.inputs["samples"]


def _gaussian(arrays: Mapping[str, np.ndarray], metric: str, where: str) -> Gaussian:
    mean, covariance = NAMES[FRECHET[metric]]
    if mean not in arrays or covariance not in arrays:
        raise ValueError(
            f"{where}: expected {mean} and {covariance} for {HEADINGS[metric]}, found {sorted(arrays)}"
        )
    return Gaussian(arrays[mean], arrays[covariance])

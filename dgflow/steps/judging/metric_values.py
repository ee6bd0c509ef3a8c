"""The computation of `Measure`: the numbers, with their provenance, warnings and notes."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from numpy.lib.npyio import NpzFile

from dgflow.metrics import checks
from dgflow.metrics.frechet import Gaussian, Moments, frechet_distance
from dgflow.metrics.frechet_error import FrechetInfluence
from dgflow.metrics.inception_score import InceptionScore
from dgflow.metrics.protocols import HEADINGS, OF_NEIGHBOURS
from dgflow.metrics.result import MetricResult, Provenance, share_error, split_error, subset_error
from dgflow.runtime.environment import versions
from dgflow.specs.bound import Bound, BoundRows
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
from dgflow.steps.judging.metric_warnings import (
    images_digest,
    made_up,
    manifold_size,
    notes,
    of_images,
    of_statistics,
)
from dgflow.steps.judging.statistics import NAMES
from dgflow.steps.sources.image_set import ImageSet, StatisticsFile
from dgflow.store.shards import rows_sha256


def measured(step: MeasureFields, inputs: Bound, spread: Spread) -> MetricResult:
    """Returns the numbers, with their provenance, warnings and notes."""
    values: dict[str, float] = {}
    errors: dict[str, float | None] = {}
    spreads: dict[str, float] = {}
    sums = None if step.images is None else _sums(step, inputs, step.images.rows, spread)
    moments = {} if sums is None else sums.totals()
    for metric, column in FRECHET.items():
        if metric in step.wanted:
            values[metric], errors[metric] = _frechet(step, inputs, metric, moments.get(column), spread)
    warnings = made_up(step) + of_statistics(step)
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
        warnings += of_images(step, step.images, inputs, sums, moments, spread)
    return MetricResult(
        values={name: values[name] for name in step.wanted},
        errors={name: error for name, error in errors.items() if name in step.wanted},
        spreads=spreads,
        provenance=_provenance(step, inputs),
        warnings=warnings,
        notes=notes(step, moments, errors),
    )


def _sums(step: MeasureFields, inputs: Bound, rows: int, spread: Spread) -> Sums:
    columns = [column for metric, column in FRECHET.items() if metric in step.wanted]
    columns += ["logits"] if "is" in step.wanted else []
    return summed(inputs, "samples", rows, columns, step.yardstick.split_size, spread)


def _frechet(
    step: MeasureFields, inputs: Bound, metric: str, moments: Moments | None, spread: Spread
) -> tuple[float, float | None]:
    """Returns a Fréchet distance and its standard error, None if the error is not known.

    `moments` are the samples', None if only their statistics are given.
    """
    reference = _reference(step, inputs, metric)
    if moments is None:
        assert isinstance(step.samples, StatisticsFile)
        return frechet_distance(_gaussian(step.samples.read(), metric, step.samples.title), reference), None
    checks.check_statistics(len(reference.mean), len(moments.mean), HEADINGS[metric])
    distance = frechet_distance(moments, reference)
    try:
        influences = FrechetInfluence.of(moments, reference)
    except ValueError:  # too few samples, which a warning reports already
        return distance, None
    sums = influence(inputs, "samples", moments.n, FRECHET[metric], influences, spread)
    return distance, sums.total().standard_error


def _reference(step: MeasureFields, inputs: Bound, metric: str) -> Gaussian:
    if isinstance(step.statistics, StatisticsFile):
        return _gaussian(step.statistics.read(), metric, step.statistics.title)
    title = "the reference" if step.published is None else step.published.title
    with _arrays(inputs) as arrays:
        return _gaussian(arrays, metric, title)


def _arrays(inputs: Bound) -> NpzFile:
    """Returns the arrays of the step of statistics, by name; each is read when it is used."""
    return np.load(io.BytesIO(inputs.result("statistics")), allow_pickle=False)


def _manifold(step: MeasureFields, reference: Slice | ImageSet, inputs: Bound, spread: Spread) -> Population:
    """Returns the reference's images for precision and recall."""
    size = manifold_size(step, reference)
    if size == reference.rows:
        return Population(inputs, "reference", size)
    # A folder is sorted by class, so the first images would not represent it.
    chosen = np.random.RandomState(0).permutation(reference.rows)[:size]
    return Population.at(np.sort(chosen), inputs, "reference", spread)


def _kid_subset_size(step: MeasureFields) -> int:
    """Returns the protocol's subset size, or the size of the smaller set if that has fewer."""
    return min(step.yardstick.kid_subset_size, *(part.rows for part in (step.reference, step.images) if part))


def _provenance(step: MeasureFields, inputs: Bound) -> Provenance:
    behind = next((item.manifest.inputs for item in inputs.items.values() if isinstance(item, BoundRows)), {})
    images = step.reference_images
    return Provenance(
        protocol=step.yardstick.name,
        front_end=step.yardstick.front_end,
        n=None if step.images is None else step.images.rows,
        **step.samples.drawn._asdict(),
        samples_digest=images_digest(inputs, "samples", step.samples),
        reference_digest=None if images is None else images_digest(inputs, "reference", images),
        reference_n=None if images is None else images.rows,
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
    """Returns the digest of the numbers alone, the same for a published file wherever it was fetched from."""
    if isinstance(step.statistics, StatisticsFile):
        return step.statistics.digest
    if not step.published or "statistics" not in inputs.items:
        return None
    with _arrays(inputs) as arrays:
        return rows_sha256(dict(arrays))


def _gaussian(arrays: Mapping[str, np.ndarray], metric: str, where: str) -> Gaussian:
    mean, covariance = NAMES[FRECHET[metric]]
    if mean not in arrays or covariance not in arrays:
        raise ValueError(
            f"{where}: expected {mean} and {covariance} for {HEADINGS[metric]}, found {sorted(arrays)}"
        )
    return Gaussian(arrays[mean], arrays[covariance])

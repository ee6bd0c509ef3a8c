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
from dgflow.metrics.protocols import HEADINGS, OF_NEIGHBOURS, PROTOCOLS, outside_protocol
from dgflow.metrics.result import MetricResult, Provenance, share_error, split_error, subset_error
from dgflow.runtime.environment import versions
from dgflow.specs.bound import Bound, BoundRows
from dgflow.specs.graph import graph
from dgflow.specs.step import Slice, Spread
from dgflow.steps.decode import origin
from dgflow.steps.generate import Generate
from dgflow.steps.judging.feature_passes import (
    Population,
    Sums,
    influence,
    kernel_distances,
    neighbours,
    summed,
)
from dgflow.steps.judging.measure import FRECHET, Measure
from dgflow.steps.judging.statistics import NAMES
from dgflow.steps.shapes import data_shape
from dgflow.steps.sources.image_set import ImageSet, StatisticsFile
from dgflow.store.shards import rows_sha256

# Samples a feature, below which the first order is a rough measure of a Fréchet distance's spread
# (`frechet_error`)
_FEW = 10


def measured(step: Measure, inputs: Bound, spread: Spread) -> MetricResult:
    """The numbers, with what they depend on and what is odd about them."""
    values: dict[str, float] = {}
    errors: dict[str, float | None] = {}
    spreads: dict[str, float] = {}
    sums = (
        None if isinstance(step.samples, StatisticsFile) else _sums(step, inputs, step.samples.rows, spread)
    )
    moments = {} if sums is None else sums.totals()
    for metric, column in FRECHET.items():
        if metric in step.wanted:
            values[metric], errors[metric] = _frechet(step, inputs, metric, moments.get(column), spread)
    if sums is not None:
        assert not isinstance(step.samples, StatisticsFile)
        if "is" in step.wanted:
            score = InceptionScore.of(sums.scores.total())
            values["is"], spreads["is"] = score.mean, score.std
            errors["is"] = split_error(score.std, len(score.per_split))
        if set(step.wanted) & set(OF_NEIGHBOURS):
            shared = neighbours(
                *_populations(step, inputs, _manifold_size(step), spread),
                step.neighbours,
                step.distances,
                spread,
            )
            values |= {"precision": shared.precision, "recall": shared.recall, "f1": shared.f1}
            errors["precision"] = share_error(shared.precision, step.samples.rows)
        if "kid" in step.wanted:
            found = _kid(step, inputs, spread)
            values["kid"], spreads["kid"] = float(found.mean()), float(found.std())
            errors["kid"] = subset_error(
                spreads["kid"], len(found), _kid_subset_size(step), step.samples.rows
            )
    return MetricResult(
        values={name: values[name] for name in step.wanted},
        errors={name: error for name, error in errors.items() if name in step.wanted},
        spreads=spreads,
        provenance=_provenance(step, inputs),
        warnings=[*_made_up(step), *([] if sums is None else _warnings(step, inputs, sums, moments))],
        notes=_notes(step, moments, errors),
    )


def _sums(step: Measure, inputs: Bound, rows: int, spread: Spread) -> Sums:
    columns = [column for metric, column in FRECHET.items() if metric in step.wanted]
    return summed(
        inputs,
        "samples",
        rows,
        [*columns, *(["logits"] if "is" in step.wanted else [])],
        step.yardstick.split_size,
        spread,
    )


def _frechet(
    step: Measure, inputs: Bound, metric: str, moments: Moments | None, spread: Spread
) -> tuple[float, float | None]:
    """A Fréchet distance and its standard error, None where that is not known.

    `moments` are the samples', None of statistics alone.
    """
    reference = _reference(step, inputs, metric)
    if moments is None:
        assert isinstance(step.samples, StatisticsFile)
        return frechet_distance(_gaussian(step.samples.read(), metric, step.samples.title), reference), None
    checks.check_statistics(len(reference.mean), len(moments.mean), HEADINGS[metric])
    distance = frechet_distance(moments, reference)
    try:
        found = FrechetInfluence.of(moments, reference)
    except ValueError:  # too few samples, of which there is a warning already
        return distance, None
    return distance, influence(
        inputs, "samples", moments.n, FRECHET[metric], found, spread
    ).total().standard_error


def _reference(step: Measure, inputs: Bound, metric: str) -> Gaussian:
    if isinstance(step.statistics, StatisticsFile):
        return _gaussian(step.statistics.read(), metric, step.statistics.title)
    return _gaussian(
        _arrays(inputs), metric, "the reference" if step.published is None else step.published.title
    )


def _arrays(inputs: Bound) -> dict[str, np.ndarray]:
    """Those of the step of statistics, by name."""
    with np.load(io.BytesIO(inputs.result("statistics")), allow_pickle=False) as arrays:
        return dict(arrays)


def _manifold_size(step: Measure) -> int:
    """How many of the reference's images precision and recall take: all, where a protocol does not take
    fewer."""
    assert step.reference is not None
    return min(step.reference.rows, step.yardstick.manifold_images or step.reference.rows)


def _populations(step: Measure, inputs: Bound, size: int, spread: Spread) -> tuple[Population, Population]:
    """`size` images of the reference, and the samples."""
    assert step.reference is not None and not isinstance(step.samples, StatisticsFile)
    real = Population(inputs, "reference", step.reference.rows)
    if size < real.rows:  # a folder is in the order of its classes, so the first ones would not do
        chosen = np.random.RandomState(0).permutation(real.rows)[:size]
        real = Population.at(np.sort(chosen), inputs, "reference", spread)
    return real, Population(inputs, "samples", step.samples.rows)


def _kid_subset_size(step: Measure) -> int:
    """The protocol's, or all of the smaller set where that has fewer."""
    assert step.reference is not None and not isinstance(step.samples, StatisticsFile)
    return min(step.yardstick.kid_subset_size, step.reference.rows, step.samples.rows)


def _kid(step: Measure, inputs: Bound, spread: Spread) -> np.ndarray:
    """The kernel distance of every subset."""
    assert step.reference is not None
    real, fake = _populations(step, inputs, step.reference.rows, spread)
    return kernel_distances(
        real, fake, step.yardstick.kid_subsets, _kid_subset_size(step), step.yardstick.kid_seed, spread
    )


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


def _statistics_digest(step: Measure, inputs: Bound) -> str | None:
    """Of the numbers alone, so that it is the same however a published file came here."""
    if isinstance(step.statistics, StatisticsFile):
        return step.statistics.digest
    return (
        None if step.published is None or "statistics" not in inputs.items else rows_sha256(_arrays(inputs))
    )


def _made_up(step: Measure) -> list[str]:
    """One text, whatever is made up: a table has it once."""
    if not any(node.step.is_made_up for node in graph(step)):
        return []
    return [
        "a smoke run: random weights or statistics stand in for trained or published ones; these numbers "
        "compare with nothing"
    ]


def _warnings(step: Measure, inputs: Bound, sums: Sums, moments: Mapping[str, Moments]) -> list[str]:
    assert not isinstance(step.samples, StatisticsFile)
    protocol = PROTOCOLS.get(step.yardstick.name)
    found: list[str] = []
    for metric, column in FRECHET.items():
        if metric in step.wanted:
            counted = checks.sample_count(
                step.samples.rows, len(moments[column].sum), protocol, HEADINGS[metric]
            )
            found += [line for line in counted if line not in found]
    if set(step.wanted) & set(OF_NEIGHBOURS):
        found += checks.manifold_count(_manifold_size(step), protocol)
    labels = sums.fact("label")
    found += checks.class_balance(labels, _classes(step) or int(labels.max()) + 1)
    found += checks.constant_images(np.flatnonzero(sums.fact("constant")).tolist(), step.samples.rows)
    found += checks.repeated_images([value.tobytes() for value in sums.fact("pixels")])
    if step.compared is not None and _digest(inputs, "samples", step.samples) == _digest(
        inputs, "reference", step.compared
    ):
        found.append("samples and reference are the same images: this measures nothing")
    return found


def _classes(step: Measure) -> int:
    """How many classes the samples can have, 0 where nobody says."""
    return data_shape(step.samples.step).num_classes if isinstance(step.samples, Slice) else 0


def _notes(step: Measure, moments: Mapping[str, Moments], errors: Mapping[str, float | None]) -> list[str]:
    found = outside_protocol(step.yardstick, step.wanted)
    for metric, column in FRECHET.items():
        if errors.get(metric) is not None and moments[column].n < _FEW * len(moments[column].sum):
            found.append(
                f"± of {HEADINGS[metric]} is rough with fewer than {_FEW} samples a feature: in trials 0.7 "
                "to 2 times the true spread"
            )
    if step.metrics is None:
        left_out = {name: why for name in step.yardstick.metrics if (why := step.lacking(name))}
        found += [f"not measured: {HEADINGS[name]}, since {why}" for name, why in left_out.items()]
    if (
        set(step.wanted) & set(OF_NEIGHBOURS)
        and step.reference is not None
        and _manifold_size(step) < step.reference.rows
    ):
        found.append(
            f"precision and recall use {_manifold_size(step):,} of the reference's {step.reference.rows:,} "
            "images, drawn once for all by a fixed seed"
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
        drawn = origin(part)
        return (
            _Seeds(drawn.step.seed, drawn.step.seeding, drawn.start, drawn.stop)
            if isinstance(drawn.step, Generate)
            else _Seeds()
        )
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


def _gaussian(arrays: Mapping[str, np.ndarray], metric: str, where: str) -> Gaussian:
    mean, covariance = NAMES[FRECHET[metric]]
    if mean not in arrays or covariance not in arrays:
        raise ValueError(
            f"{where}: expected {mean} and {covariance} for {HEADINGS[metric]}, found {sorted(arrays)}"
        )
    return Gaussian(arrays[mean], arrays[covariance])

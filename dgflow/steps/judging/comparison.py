"""The `Measure` behind `dgflow metrics SAMPLES REFERENCE`, with Inception's published weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from dgflow.images.statistics import array_names, has_images, has_statistics
from dgflow.metrics.protocols import Distances, FrontEndName
from dgflow.steps.judging.inception_weights import inception
from dgflow.steps.judging.measure import Measure
from dgflow.steps.sources.image_set import ImageSet, StatisticsFile

if TYPE_CHECKING:
    from dgflow.metrics.result import MetricResult


def comparison(
    samples: str,
    reference: str,
    protocol: FrontEndName,
    *,
    weights: str = "inception-2015-12-05",
    metrics: Sequence[str] | None = None,
    distances: Distances = "exact",
    ignore_labels: bool = False,
    drop_alpha: bool = False,
) -> Measure:
    """Returns the step that measures `samples` against `reference`: sources of images, of statistics, or (the
    reference) of both. `ignore_labels` and `drop_alpha` are passed to `open_images`.

    Raises ValueError and FileNotFoundError if a source holds neither, or does not suffice for the metrics.
    """
    read = partial(ImageSet.at, ignore_labels=ignore_labels, drop_alpha=drop_alpha)
    images, statistics = _population(reference, partial(read, gaps=True))
    own_images, own_statistics = _population(samples, read)
    return Measure(
        samples=own_images or own_statistics,  # type: ignore[arg-type]
        reference=images,
        statistics=statistics,
        features=inception(weights) if own_images or images else None,
        protocol=protocol,
        metrics=None if metrics is None else tuple(metrics),  # type: ignore[arg-type]
        distances=distances,
    )


def check_may_compare(target: Measure, before: MetricResult) -> None:
    """Raises ValueError if `difference` will refuse to compare the result of `target`, of images or files,
    with `before`. The network is not compared: its digest is not known before anything is measured."""
    from dgflow.metrics.result import MetricResult, difference

    images = target.reference_images
    assert isinstance(images, ImageSet | None) and isinstance(target.statistics, StatisticsFile | None)
    known = {
        "protocol": target.yardstick.name,
        "front_end": target.yardstick.front_end,
        "n": None if target.images is None else target.images.rows,
        "reference_digest": None if images is None else images.digest,
        "reference_n": None if images is None else images.rows,
        "statistics_digest": None if target.statistics is None else target.statistics.digest,
        "k": target.neighbours,
        "distances": target.distances,
    }
    provenance = before.provenance.model_copy(update=known)
    difference(MetricResult(values=dict.fromkeys(target.wanted, 0.0), provenance=provenance), before)


def _population(
    source: str, read: Callable[[str], ImageSet]
) -> tuple[ImageSet | None, StatisticsFile | None]:
    """Returns the images and the statistics of a source: at least one of the two."""
    if not has_statistics(source):
        if not has_images(source):
            raise ValueError(
                "expected images (an array arr_0, samples or image) or statistics (mu and sigma) in "
                f"{source}, found the arrays {sorted(array_names(source))}; rename the arrays"
            )
        return read(source), None
    return (read(source) if has_images(source) else None), StatisticsFile.at(source)

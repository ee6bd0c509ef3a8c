"""The fields of a comparison, and the checks that they are consistent. `metric_values` computes."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import ClassVar, Self

from pydantic import Field, model_validator

from dgflow.metrics.checks import check_apart
from dgflow.metrics.protocols import (
    CUSTOM,
    DECIMALS,
    HEADINGS,
    LOWER_IS_BETTER,
    METRICS,
    OF_NEIGHBOURS,
    PROTOCOLS,
    Distances,
    FrontEndName,
    MetricName,
    Protocol,
    chosen,
)
from dgflow.networks.inception.spec import WIDTHS
from dgflow.networks.roles import FeatureNetworkSpec
from dgflow.specs.figures import Metric
from dgflow.specs.step import Result, ResultStep, Slice, Weights
from dgflow.steps.judging.features import Features
from dgflow.steps.judging.published_reference import PublishedStatistics
from dgflow.steps.judging.statistics import Statistics
from dgflow.steps.sources.image_set import ImageSet, StatisticsFile

FRECHET = {"fid": "features", "sfid": "spatial"}
"""The column of `Features` whose Fréchet distance each metric is."""
NEED_IMAGES = (*OF_NEIGHBOURS, "kid")
"""Metrics for which statistics of the reference are not enough."""


class Comparison(ResultStep, ABC):
    """The fields that define the reference, protocol and metrics of a comparison; each subclass has its own
    `features`."""

    quantities: ClassVar[Mapping[str, Metric]] = {
        name: Metric(HEADINGS[name], DECIMALS[name], name in LOWER_IS_BETTER) for name in METRICS
    }

    reference: Slice | ImageSet | None = None
    protocol: FrontEndName | None = None
    statistics: StatisticsFile | Result | None = None
    metrics: tuple[MetricName, ...] | None = None
    neighbours: int = Field(default=3, gt=0)
    distances: Distances = "exact"

    @property
    def file_bytes(self) -> int:
        return 20_000


class MeasureFields(Comparison, ABC):
    """The checked fields of `Measure`, and properties derived from them."""

    samples: Slice | ImageSet | StatisticsFile
    features: Weights | None = None

    @property
    def title(self) -> str:
        return f"metrics of {self.samples.title}"

    @model_validator(mode="after")
    def _check_measurable(self) -> Self:
        if self.reference is None and self.statistics is None:
            raise ValueError(
                "expected a reference: images, statistics (mu and sigma), or both; found neither"
            )
        if isinstance(self.statistics, Result) and self.published is None:
            kind = self.statistics.step.kind
            raise ValueError(
                "expected as statistics a StatisticsFile or the result of a PublishedStatistics, found "
                f"that of {kind}"
            )
        self._check_sides()
        lacking = {name: why for name in self.wanted if (why := self.lacking(name))} if self.metrics else {}
        if lacking:
            raise ValueError("; ".join(f"{name} cannot be measured: {why}" for name, why in lacking.items()))
        if not self.wanted:
            raise ValueError(
                f"no metric of the protocol {self.yardstick.name!r} can be measured from the given inputs"
            )
        self._check_widths()
        if self.features is not None:
            self._features(ImageSet(source="", digest="", rows=1))  # checks network and protocol,
            self.inputs()  # and the shape of its images
        elif self.reference_images is not None or self.images is not None:
            raise ValueError(
                "expected the weights of the feature network, found none: images are measured in its features"
            )
        return self

    def _check_sides(self) -> None:
        """Checks that the slices are images of one size and have no image in common."""
        slices = {
            name: part
            for name, part in (("the samples", self.samples), ("the reference", self.reference))
            if isinstance(part, Slice)
        }
        sides = {name: part.image_shape.image_size for name, part in slices.items()}
        if self.published is not None:
            sides[f"the {self.published.title}"] = self.published.image_size
        if len(set(sides.values())) > 1:
            found = ", ".join(f"{side} x {side} pixels in {name}" for name, side in sides.items())
            raise ValueError(
                f"expected samples and reference of one size, found {found}; take the reference that was "
                "measured at the samples' size"
            )
        if len(slices) == 2:
            check_apart(*((part.step.fingerprint, part.start, part.stop) for part in slices.values()))

    @property
    def images(self) -> Slice | ImageSet | None:
        """The samples, None if only their statistics are given."""
        return None if isinstance(self.samples, StatisticsFile) else self.samples

    @property
    def files(self) -> list[StatisticsFile]:
        """The files of statistics, those of the samples first."""
        return [part for part in (self.samples, self.statistics) if isinstance(part, StatisticsFile)]

    @property
    def published(self) -> PublishedStatistics | None:
        """The step whose result the statistics are, if any."""
        step = self.statistics.step if isinstance(self.statistics, Result) else None
        return step if isinstance(step, PublishedStatistics) else None

    def _check_widths(self) -> None:
        """Raises ValueError for statistics that cannot be compared, before the features of any image are
        computed."""
        files = [file for file in self.files if file.widths]
        for number, (metric, column) in enumerate(FRECHET.items()):
            if metric not in self.wanted:
                continue
            if self.protocol is not None and (self.reference_images is not None or self.images is not None):
                expected, of = WIDTHS[column], "Inception"
            else:
                expected, of = files[0].widths[number] if files else 0, "the other side"
            for file in files:
                if file.widths[number] != expected:
                    raise ValueError(
                        f"{file.title}: expected statistics of {expected:,} features for "
                        f"{HEADINGS[metric]}, as {of} has, found "
                        f"{file.widths[number]:,}; take statistics of the same network and layer"
                    )

    @property
    def yardstick(self) -> Protocol:
        return CUSTOM if self.protocol is None else PROTOCOLS[self.protocol]

    @property
    def wanted(self) -> tuple[MetricName, ...]:
        """The metrics to measure."""
        if self.metrics is not None:
            return chosen(self.yardstick, self.metrics)
        return tuple(name for name in self.yardstick.metrics if not self.lacking(name))

    def lacking(self, metric: MetricName) -> str:
        """Returns the reason why a metric cannot be measured from the inputs; empty if it can."""
        if metric == "sfid":
            if self.protocol is None:
                return "sFID needs Inception's features, and these are another network's"
            for file in self.files:
                if len(file.widths) == 1:
                    return f"{file.title} holds no mu_s and sigma_s"
            if self.published is not None and not self.published.spatial:
                return f"{self.published.title} have no mu_s and sigma_s"
        if metric == "is" and self.features is not None:
            spec = self.features.step.architecture
            if isinstance(spec, FeatureNetworkSpec) and not spec.gives_logits:
                return f"{spec.title} gives features without logits"
        if metric not in FRECHET and self.images is None:
            return f"{self.samples.title} holds statistics and no images"
        if metric in NEED_IMAGES and self.reference is None:
            return "the reference holds statistics and no images"
        if metric in OF_NEIGHBOURS:
            fewest = min(part.rows for part in (self.images, self.reference) if part is not None)
            if fewest <= self.neighbours:
                return (
                    f"{self.neighbours} nearest neighbours need more than {self.neighbours} images on "
                    f"each side, found {fewest} on one"
                )
        return ""

    def _features(self, part: Slice | ImageSet) -> Slice:
        assert self.features is not None
        step = Features(
            samples=part,
            network=self.features,
            front_end=None if self.protocol is None else self.yardstick.front_end,
        )
        return step[: part.rows]

    @property
    def reference_images(self) -> Slice | ImageSet | None:
        """The reference's images, None if published statistics suffice."""
        return self.reference if self.statistics is None or set(self.wanted) & set(NEED_IMAGES) else None

    def inputs(self) -> dict[str, Slice | Weights | Result]:
        """The features, and statistics of the reference, as separate steps shared with every other
        comparison.

        The reference comes first, so that its faults are reported before samples are drawn.
        """
        inputs: dict[str, Slice | Weights | Result] = {}
        if isinstance(self.statistics, Result) and set(self.wanted) & set(FRECHET):
            inputs["statistics"] = self.statistics
        if self.reference_images is not None:
            inputs["reference"] = features = self._features(self.reference_images)
            if self.statistics is None and set(self.wanted) & set(FRECHET):
                inputs["statistics"] = Statistics(features=features).result()
        if self.images is not None:
            inputs["samples"] = self._features(self.images)
        return inputs

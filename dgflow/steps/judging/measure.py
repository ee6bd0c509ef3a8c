"""Measure: one set of samples against one reference, in every metric of a protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from dgflow.metrics.checks import check_apart
from dgflow.metrics.protocols import (
    CUSTOM,
    HEADINGS,
    OF_NEIGHBOURS,
    PROTOCOLS,
    Distances,
    MetricName,
    Protocol,
    chosen,
)
from dgflow.networks.own.spec import OwnFeatures
from dgflow.specs.step import Result, ResultStep, Slice, Spread, Weights
from dgflow.steps.judging.features import Features, title_of
from dgflow.steps.judging.published_reference import PublishedStatistics
from dgflow.steps.judging.statistics import Statistics
from dgflow.steps.shapes import check_images, data_shape
from dgflow.steps.sources.image_set import ImageSet, StatisticsFile

if TYPE_CHECKING:
    from dgflow.specs.bound import Bound
    from dgflow.store.objects import ObjectStore

FRECHET = {"fid": "features", "sfid": "spatial"}
"""Metric to the column of `Features` whose Fréchet distance it is."""
INCEPTIONS = {"fid": 2048, "sfid": 2023}
"""The width of these columns where Inception makes them."""
NEED_IMAGES = (*OF_NEIGHBOURS, "kid")
"""Metrics for which statistics of the reference are not enough."""


class Measure(ResultStep):
    """`samples` against `reference`, in the features of `features`, by a `protocol`; without one, by a
    classifier that was trained here.

    Args:
        samples: images, or nothing but their statistics, which give FID and sFID alone.
        features: the network; not needed where both sides are statistics.
        reference: images. Where there are `statistics` too, those are what FID and sFID are measured against,
            as OpenAI publishes them.
        statistics: a file, looked at when the recipe is built; or the result of a `PublishedStatistics`,
            which is fetched when it runs.
        metrics: which, in the table's order; by default all of the protocol that can be had from what is
            given.
        neighbours: k of precision and recall.
        distances: of precision and recall; "openai-float16" is what OpenAI's evaluator computes.
    """

    samples: Slice | ImageSet | StatisticsFile
    reference: Slice | ImageSet | None = None
    features: Weights | None = None
    protocol: Literal["adm", "edm", "clean"] | None = None
    statistics: StatisticsFile | Result | None = None
    metrics: tuple[MetricName, ...] | None = None
    neighbours: int = Field(default=3, gt=0)
    distances: Distances = "exact"

    @property
    def title(self) -> str:
        return f"metrics of {self.samples.title if isinstance(self.samples, StatisticsFile) else title_of(self.samples)}"

    @model_validator(mode="after")
    def _can_be(self) -> Measure:
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
        if isinstance(self.samples, Slice) and isinstance(self.reference, Slice):
            mine, theirs = (
                (part.step.fingerprint, part.start, part.stop) for part in (self.samples, self.reference)
            )
            check_apart(mine, theirs)
        lacking = {name: why for name in self.wanted if (why := self.lacking(name))} if self.metrics else {}
        if lacking:
            raise ValueError("; ".join(f"{name} cannot be measured: {why}" for name, why in lacking.items()))
        if not self.wanted:
            raise ValueError(
                f"nothing of the protocol {self.yardstick.name!r} can be measured from what is given"
            )
        self._check_widths()
        if self.features is not None:
            self._features(ImageSet(source="", digest="", rows=1))  # which checks network and protocol,
            self.inputs()  # and that its images are of the shape that it takes
        elif self.compared is not None or not isinstance(self.samples, StatisticsFile):
            raise ValueError(
                "expected the weights of the feature network, found none: images are measured in its features"
            )
        return self

    def _check_sides(self) -> None:
        """Images are of one size, and none are latents.

        Of files from outside nobody knows before they are read.
        """
        sides = {}
        for name, part in (("the samples", self.samples), ("the reference", self.reference)):
            if isinstance(part, Slice):
                check_images(part)
                sides[name] = data_shape(part.step).image_size
        if self.published is not None:
            sides[f"the {self.published.title}"] = self.published.image_size
        if len(set(sides.values())) > 1:
            found = ", ".join(f"{side} x {side} pixels in {name}" for name, side in sides.items())
            raise ValueError(
                f"expected samples and reference of one size, found {found}; take the reference that was "
                "measured at the samples' size"
            )

    @property
    def published(self) -> PublishedStatistics | None:
        """The step of the statistics, where they are one's result."""
        step = self.statistics.step if isinstance(self.statistics, Result) else None
        return step if isinstance(step, PublishedStatistics) else None

    def _check_widths(self) -> None:
        """Statistics that cannot be compared are found here, and not when the features of all images are
        there."""
        files = [
            part
            for part in (self.samples, self.statistics)
            if isinstance(part, StatisticsFile) and part.widths
        ]
        for place, metric in enumerate(FRECHET):
            if metric not in self.wanted:
                continue
            if self.protocol is not None and (
                self.compared is not None or not isinstance(self.samples, StatisticsFile)
            ):
                expected, of = INCEPTIONS[metric], "Inception"
            else:
                expected, of = files[0].widths[place] if files else 0, "the other side"
            for file in files:
                if file.widths[place] != expected:
                    raise ValueError(
                        f"{file.title}: expected statistics of {expected:,} features for "
                        f"{HEADINGS[metric]}, as {of} has, found "
                        f"{file.widths[place]:,}; take statistics of the same network and layer"
                    )

    @property
    def yardstick(self) -> Protocol:
        return CUSTOM if self.protocol is None else PROTOCOLS[self.protocol]

    @property
    def wanted(self) -> tuple[MetricName, ...]:
        """The metrics that are measured."""
        if self.metrics is not None:
            return chosen(self.yardstick, self.metrics)
        return tuple(name for name in self.yardstick.metrics if not self.lacking(name))

    def lacking(self, metric: MetricName) -> str:
        """Why a metric cannot be had from what is given; nothing if it can."""
        if metric == "sfid" and self.protocol is None:
            return "sFID is of Inception's features, and the judge is another network"
        for file in (self.samples, self.statistics):
            if metric == "sfid" and isinstance(file, StatisticsFile) and len(file.widths) == 1:
                return f"{file.title} holds no mu_s and sigma_s"
        if metric == "sfid" and self.published is not None and not self.published.spatial:
            return f"{self.published.title} have no mu_s and sigma_s"
        if metric == "is" and self.features is not None:
            own = self.features.step.network
            if isinstance(own, OwnFeatures) and not own.logits:
                return f"{own.factory} gives features without logits"
        if metric not in FRECHET and isinstance(self.samples, StatisticsFile):
            return f"{self.samples.title} holds statistics and no images"
        if metric in NEED_IMAGES and self.reference is None:
            return "the reference holds statistics and no images"
        if metric in OF_NEIGHBOURS:
            fewest = min(
                part.rows for part in (self.samples, self.reference) if isinstance(part, Slice | ImageSet)
            )
            if fewest <= self.neighbours:
                return f"{self.neighbours} nearest neighbours need more than {self.neighbours} images a side, and one has {fewest}"
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
    def compared(self) -> Slice | ImageSet | None:
        """The reference's images, where they are looked at: published statistics can make that needless."""
        return self.reference if self.statistics is None or set(self.wanted) & set(NEED_IMAGES) else None

    def inputs(self) -> dict[str, Slice | Weights | Result]:
        """Features, and statistics of the reference: steps of their own, shared with every other comparison.

        The reference comes first: what is wrong with it is found before samples are made.
        """
        found: dict[str, Slice | Weights | Result] = {}
        if isinstance(self.statistics, Result) and set(self.wanted) & set(FRECHET):
            found["statistics"] = self.statistics
        if self.compared is not None:
            found["reference"] = self._features(self.compared)
            if self.statistics is None and set(self.wanted) & set(FRECHET):
                found["statistics"] = Statistics(features=found["reference"]).result()
        if not isinstance(self.samples, StatisticsFile):
            found["samples"] = self._features(self.samples)
        return found

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """A `MetricResult` as JSON."""
        del store
        from dgflow.steps.judging.metric_values import measured

        return measured(self, inputs, spread).encoded()

"""OfClasses: the images of some classes, as a separate domain."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, model_validator

from dgflow.specs.network import DataShape
from dgflow.specs.spec import SmokeRun
from dgflow.specs.step import INDEX_AND_LABEL, SampleStep, Slice

if TYPE_CHECKING:
    from dgflow.specs.bound import Bound
    from dgflow.store.shards import Columns


class OfClasses(SampleStep):
    """The first `count` images of `images` whose label is one of `classes`, in their order.

    Columns: `index`, `label` (unchanged), `image` (uint8 [H, W, C]). Fewer than `count` matching images raise
    an error when the step runs.
    """

    images: Slice
    classes: tuple[int, ...] = Field(min_length=1)
    count: int = Field(gt=0)

    @model_validator(mode="after")
    def _check_classes(self) -> OfClasses:
        known = self.images.image_shape.num_classes
        wrong = [number for number in self.classes if not 0 <= number < known]
        if not known or not self.images.step.labelled:
            raise ValueError(f"images: expected images with classes, found none in {self.images.step.title}")
        if wrong or len(set(self.classes)) < len(self.classes):
            raise ValueError(
                f"classes: expected different ones from 0 to {known - 1}, the classes of "
                f"{self.images.step.title}, found {self.classes}"
            )
        if self.count > self.images.rows:
            raise ValueError(
                f"count: expected at most the {self.images.rows:,} images that are searched, found "
                f"{self.count:,}"
            )
        return self

    def toy(self, smoke: SmokeRun) -> OfClasses:
        images = smoke.slice(self.images)
        expected = images.rows * len(self.classes) / self.shape.num_classes
        # Half of the expected number, since a small set need not have all classes equally often.
        return self.model_copy(
            update=self._toy_fields() | {"images": images, "count": max(1, int(expected / 2))}
        )

    @property
    def title(self) -> str:
        return f"classes {', '.join(map(str, self.classes))} of {self.images.step.title}"

    @property
    def shape(self) -> DataShape:
        return self.images.step.shape

    @property
    def length(self) -> int:
        return self.count

    @property
    def row_bytes(self) -> int:
        return INDEX_AND_LABEL + self.shape.values

    def shard_builder(self, inputs: Bound) -> Callable[[int, int], Columns]:
        """Scans the labels; the returned function gives the images [start, stop).

        Raises ValueError if there are fewer than `count`.
        """
        labels = inputs.rows("images", ["label"])["label"]
        own = np.flatnonzero(np.isin(labels, self.classes))[: self.count]
        if len(own) < self.count:
            raise ValueError(
                f"expected {self.count:,} images of {self.title} "
                f"[{self.images.start}:{self.images.stop}], found {len(own):,}; set count to that, or "
                "search more images"
            )

        def rows(start: int, stop: int) -> Columns:
            first, last = int(own[start]), int(own[stop - 1]) + 1
            part = inputs.rows("images", ["label", "image"], first, last)
            chosen = own[start:stop] - first
            return {"index": np.arange(start, stop, dtype=np.int64)} | {
                name: values[chosen] for name, values in part.items()
            }

        return rows

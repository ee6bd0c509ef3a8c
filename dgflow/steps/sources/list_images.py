"""ListImages: the images of a source, listed once for every step that reads them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, PrivateAttr

from dgflow.images.changes import check_unchanged
from dgflow.images.discovery import list_images
from dgflow.images.listing import Changed, Listing
from dgflow.networks.catalogue import CATALOGUE
from dgflow.specs.step import FILE_HEADER, ResultStep, Spread
from dgflow.steps.sources.classes import check_numbering, check_range, missing_classes
from dgflow.weights.fetch import fetch

if TYPE_CHECKING:
    from dgflow.specs.bound import Bound
    from dgflow.store.objects import ObjectStore

_log = logging.getLogger(__name__)

LISTED = 300  # bytes per image in a listing, whose name has up to 250 characters
_NAMED = 3  # class folders in a message


class ListImages(ResultStep):
    """Names, locations, sizes and labels of the images at `source`, as Parquet. Listed in the driver, and
    checked before it is stored.

    `num_images` and `num_classes` are the numbers that the source must hold, so that a truncated download is
    found before any work; `num_images=None` accepts any number, `num_classes=0` ignores labels.
    """

    suffix: ClassVar[str] = ".parquet"

    source: str
    num_classes: int = Field(ge=0)
    num_images: int | None = Field(default=None, gt=0)
    # The folder of a relative source; only the source's text is part of the identity.
    _folder: str = PrivateAttr(default_factory=os.getcwd)

    @property
    def title(self) -> str:
        return f"listing of {self.source.rstrip('/').rpartition('/')[2]}"

    @property
    def file_bytes(self) -> int | None:
        return None if self.num_images is None else FILE_HEADER + LISTED * self.num_images

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """Returns the listing. Raises ValueError for a source that does not meet the requirements, and
        StoreError if it cannot be reached."""
        del inputs, spread
        listing = list_images(located(self.source, store), labelled=self.num_classes > 0, folder=self._folder)
        for note in listing.notes:
            _log.warning("%s: %s", self.source, note)
        return self._checked(listing).encoded()

    def check_unchanged(self, read: Callable[[], bytes], store: ObjectStore) -> None:
        """Compares the source with its listing of an earlier run, as far as that is cheap and the source can
        be reached from here.

        Raises:
            ValueError: the data changed since.
        """
        if self.source in CATALOGUE:
            return
        listing = Listing.decoded(read())
        self._warn_of_missing(listing)
        try:
            check_unchanged(self.source, listing, self._folder)
        except Changed as error:
            raise ValueError(
                f"{error}; restore the earlier data, take another root, or, to import the current data, "
                f"delete {self.name} in {store.url} and run again"
            ) from error

    def _checked(self, listing: Listing) -> Listing:
        if listing.rows == 0:
            raise ValueError(f"expected images in {self.source}, found none")
        if self.num_images is not None and listing.rows != self.num_images:
            remedy = (
                "finish the download" if listing.rows < self.num_images else "take the folder of one split"
            )
            raise ValueError(
                f"expected {self.num_images:,} images in {self.source}, found {listing.rows:,}; {remedy}, or "
                "correct num_images"
            )
        if self.num_classes == 0:
            return replace(listing, labels=None, classes=())
        if listing.labels is None:
            raise ValueError(
                f"expected labels in {self.source} (one sub-folder per class, or a column or array of "
                "labels), found none; give num_classes=0 to import without classes"
            )
        if listing.classes and len(listing.classes) != self.num_classes:
            some = ", ".join(listing.classes[:_NAMED]) + (", ..." if len(listing.classes) > _NAMED else "")
            raise ValueError(
                f"expected {self.num_classes:,} class folders in {self.source}, found "
                f"{len(listing.classes):,} ({some}); finish unpacking it, name the folder above the classes, "
                "or correct num_classes"
            )
        check_range(listing.labels, self.num_classes, self.source, listing.name)
        if listing.form != "cifar":  # whose classes are known
            check_numbering(listing.labels, self.num_classes, self.source)
        self._warn_of_missing(listing)
        return listing

    def _warn_of_missing(self, listing: Listing) -> None:
        labels = listing.labels
        missing = "" if labels is None else missing_classes(labels, self.num_classes, self.source)
        if missing:
            _log.warning(
                "%s: networks are trained without these classes, yet can be sampled with their labels",
                missing,
            )


def located(source: str, store: ObjectStore) -> str:
    """Returns the source itself; for a name of the catalogue the file, fetched into the root if it is not
    there.

    Raises:
        ValueError: the file of the catalogue holds no images.
    """
    if source not in CATALOGUE:
        return source
    if CATALOGUE[source].format != "npz":
        raise ValueError(f"expected a source of images, found {source}, which is a network of the catalogue")
    return str(fetch(store, CATALOGUE[source]).path)

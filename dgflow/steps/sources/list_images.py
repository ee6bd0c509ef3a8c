"""ListImages: what a source of real images holds, looked at once for all who read it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, PrivateAttr

from dgflow.specs.step import ResultStep, Spread
from dgflow.weights.catalogue import CATALOGUE

if TYPE_CHECKING:
    from dgflow.images.listing import Listing
    from dgflow.specs.bound import Bound
    from dgflow.store.objects import ObjectStore

_NAMED = 3  # class folders that a message names


class ListImages(ResultStep):
    """Names, places, sizes and labels of the images at `source`, as Parquet. Looked at in the driver, and
    checked before it is kept.

    `num_images` and `num_classes` are what must be there, so that a cut download is found before any work;
    `num_images=None` takes any number, `num_classes=0` ignores labels.
    """

    suffix: ClassVar[str] = ".parquet"

    source: str
    num_classes: int = Field(ge=0)
    num_images: int | None = Field(default=None, gt=0)
    _folder: str = PrivateAttr(
        default_factory=os.getcwd
    )  # that a relative source is below; the text alone is identity

    @property
    def title(self) -> str:
        return f"listing of {self.source.rstrip('/').rpartition('/')[2]}"

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """The listing. Raises ValueError for a source that is not as it should be, and StoreError where it
        cannot be reached."""
        del inputs, spread
        from dgflow.images.look import list_images

        found = list_images(located(self.source, store), labelled=self.num_classes > 0, folder=self._folder)
        return self._checked(found).encoded()

    def check_unchanged(self, read: Callable[[], bytes], store: ObjectStore) -> None:
        """Compare the source with its listing of an earlier run, as far as that is cheap and the source can
        be seen from here.

        Raises:
            ValueError: the data changed since.
        """
        if self.source in CATALOGUE:
            return
        from dgflow.images.changes import check_unchanged
        from dgflow.images.listing import Changed, Listing

        try:
            check_unchanged(self.source, Listing.decoded(read()), self._folder)
        except Changed as error:
            raise ValueError(
                f"{error}; bring back the data of then, take another root, or, to import what is there now, "
                f"delete {self.name} in {store.url} and run again"
            ) from error

    def _checked(self, found: Listing) -> Listing:
        if found.rows == 0:
            raise ValueError(f"expected images in {self.source}, found none")
        if self.num_images is not None and found.rows != self.num_images:
            remedy = "finish the download" if found.rows < self.num_images else "take the folder of one split"
            raise ValueError(
                f"expected {self.num_images:,} images in {self.source}, found {found.rows:,}; {remedy}, or "
                "correct num_images"
            )
        if self.num_classes == 0:
            return replace(found, labels=None, classes=())
        if found.labels is None:
            raise ValueError(
                f"expected labels in {self.source} (one sub-folder a class, or a column or array of labels), "
                "found none; give num_classes=0 to import without classes"
            )
        if found.classes and len(found.classes) != self.num_classes:
            some = ", ".join(found.classes[:_NAMED]) + (", ..." if len(found.classes) > _NAMED else "")
            raise ValueError(
                f"expected {self.num_classes:,} class folders in {self.source}, found {len(found.classes):,} "
                f"({some}); finish unpacking it, name the folder above the classes, or correct num_classes"
            )
        wrong = (found.labels < 0) | (found.labels >= self.num_classes)
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"expected labels 0 to {self.num_classes - 1}, found {found.labels[row]} at "
                f"{found.name(row)} of {self.source}; correct the labels or num_classes"
            )
        return found


def located(source: str, store: ObjectStore) -> str:
    """Where a source lies: itself, or of a name of the catalogue the file, which is fetched into the root
    where it is not there.

    Raises:
        ValueError: a file of the catalogue that holds no images.
    """
    if source not in CATALOGUE:
        return source
    if CATALOGUE[source].format != "npz":
        raise ValueError(f"expected a source of images, found {source}, which is a network of the catalogue")
    from dgflow.weights.fetch import fetch

    return str(fetch(store, CATALOGUE[source]).path)

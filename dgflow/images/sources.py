"""Images to evaluate or export, from wherever they lie: `open_images`.

Any source of `discovery.list_images`, and the steps of a run. What cannot have been meant is refused when it
is opened; reading takes memory for the rows asked for and no more than a row group, a shard, a set such as
CIFAR or a compressed tar on the disk beside.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import numpy as np

from dgflow.files.locations import LocalLocation, S3Location, locate
from dgflow.images.discovery import list_images
from dgflow.images.mnist_5k import NAME as MNIST_5K
from dgflow.images.readers import open_reader, unbroken
from dgflow.images.step_rows import StepImages
from dgflow.store.address import is_root, names_range, step_names
from dgflow.store.open import open_store


class FileImages:
    """The images of a listing: in the order of their indices where they carry some, else as listed.

    Attributes:
        source: as it was given; one with secrets in it is refused.
        labels: classes, int64 [rows]; None where there are none.
        first_index: the index of row 0, where the rows carry consecutive indices; None where they carry none.
        split: "train" where the source has others, which are left out; else "".
        notes: remarks for people, such as labels that were left out; more after `look`.
    """

    seed: int | None = None
    seeding: Literal["counter", "edm"] | None = None

    def __init__(self, source: str, ignore_labels: bool = False, drop_alpha: bool = False) -> None:
        self.source = source
        listing = list_images(source, labelled=not ignore_labels and "optional")
        self.rows = listing.rows
        if not self.rows:
            raise ValueError(f"expected images in {source}, found no rows")
        self._reader = open_reader(source, listing, drop_alpha=drop_alpha)
        self._order, self.first_index = self._reader.order() or (np.arange(self.rows), None)
        labels = listing.labels
        if listing.classes and self.first_index is not None:  # folders of a thousand are no classes
            labels = None
        self.labels = None if labels is None else labels[self._order]
        self.split = listing.split
        self.notes = listing.notes

    def look(self) -> None:
        """Read everything once: check the header of every picture, compute `digest`, and add to `notes`.

        Raises ValueError for a picture that cannot be used, as `read` does.
        """
        self.digest, grey, coloured = self._reader.looked_at(self._order, self.labels)
        if grey and coloured:
            self.notes += (
                f"{grey:,} of {grey + coloured:,} pictures are grey: their channel is repeated to three",
            )

    @cached_property
    def digest(self) -> str:
        """A sha256 of what decides the pixels, their order and the labels, and of nothing else, such as the
        path.

        Arrays (npz, tensors in Parquet, CIFAR): of pixels and labels, equal across those. Pictures (folder,
        zip, tar, Hugging Face's Parquet): of the files' bytes and the labels, equal across those. Reads
        everything once.
        """
        return self._reader.digest(self._order, self.labels)

    def labels_of(self, start: int, stop: int) -> np.ndarray | None:
        """The labels of rows [start, stop)."""
        return None if self.labels is None else self.labels[start:stop]

    def read(self, start: int, stop: int) -> list[np.ndarray]:
        """Rows [start, stop), as a slice of a list would: uint8 [H, W, 1|3] each, sizes may differ.

        Raises ValueError for damaged ones.
        """
        return list(unbroken(self._reader.read(self._order[start:stop])))


Images = FileImages | StepImages


def is_step(source: str) -> bool:
    """True for the address of a step: it ends in `[start:stop]`, or is no file and its parent is a root.

    Raises as `open_images`.
    """
    if names_range(source):
        return True
    location = locate(source)
    if location.kind() == "file":
        return False
    if isinstance(location, LocalLocation):
        return location.path.parent.is_dir() and is_root(str(location.path.parent))
    assert isinstance(location, S3Location)
    return bool(location.key) and is_root(location.url.rpartition("/")[0])


def open_images(source: str, *, ignore_labels: bool = False, drop_alpha: bool = False) -> Images:
    """Open images at a path or an `s3://` url, or the samples at the address of a step.

    Args:
        ignore_labels: read no labels.
        drop_alpha: leave out the alpha channel of transparent pictures, which are refused otherwise.

    Raises:
        ValueError: nothing is there, or no form of images, or a mixture; images of another form.
        StoreError: S3 or a root cannot be reached.
    """
    if source == MNIST_5K:
        return FileImages(source, ignore_labels)
    if is_step(source):
        return StepImages(source, ignore_labels)
    if locate(source).kind() == "folder" and is_root(source):
        steps = ", ".join(step_names(open_store(source)))
        raise ValueError(
            f"expected images at {source}, found the root of a run; add the name of one of its steps: "
            f"{steps or 'it has none'}"
        )
    return FileImages(source, ignore_labels, drop_alpha)

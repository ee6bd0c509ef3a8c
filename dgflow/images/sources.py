"""Opens images for evaluation or export, wherever they are stored: `open_images`.

A source is any source of `discovery.list_images`, or a step of a run. Ambiguous sources are refused when they
are opened. Reading needs memory for the requested rows, plus at most one row group, one shard, or a set such
as CIFAR. A compressed tar also needs local disk space.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import numpy as np

from dgflow.files.locations import LocalLocation, S3Location, locate
from dgflow.images.digests import Digests
from dgflow.images.discovery import list_images
from dgflow.images.headers import check_headers
from dgflow.images.order import Unordered
from dgflow.images.packaged import PACKAGED
from dgflow.images.readers import open_reader, unbroken
from dgflow.images.splits import locate_images
from dgflow.images.step_rows import StepImages
from dgflow.store.address import is_root, is_step_name, names_range, step_names
from dgflow.store.open import open_store


class FileImages:
    """The images of a listing, in the order of their indices if they have indices, else in the order of the
    listing.

    Instances can be pickled with the listing and known digests. Another process then opens only the files of
    the rows that it reads, and does not list the source again.

    Attributes:
        source: the source as given. A source that contains secrets is refused.
        labels: classes, int64 [rows], None without labels.
        first_index: the index of row 0 if the rows have consecutive indices, else None.
        gap: the error for indices that are not consecutive, for callers that need all samples, else None.
        split: the split that is read if the source has others, else "".
        notes: remarks for the user, such as on labels that were left out. `look` adds more.
    """

    seed: int | None = None
    seeding: Literal["counter", "edm"] | None = None

    def __init__(self, source: str, ignore_labels: bool = False, drop_alpha: bool = False) -> None:
        self.source = source
        self.gap: Unordered | None = None
        listing = list_images(source, labelled=not ignore_labels and "optional")
        self.rows = listing.rows
        if not self.rows:
            raise ValueError(f"expected images in {source}, found no rows")
        self._reader = open_reader(source, listing, drop_alpha=drop_alpha)
        try:
            self._order, self.first_index = self._reader.order() or (np.arange(self.rows), None)
        except Unordered as error:
            self._order, self.first_index, self.gap = error.order, None, error
        labels = listing.labels
        if listing.classes and self.first_index is not None:  # folders of a thousand are not classes
            labels = None
        self.labels = None if labels is None else labels[self._order]
        self.split = listing.split
        self.notes = listing.notes

    def check(self) -> None:
        """Raises ValueError for a picture whose header shows that it cannot be used. Only headers that are
        cheap to read are checked."""
        check_headers(self._reader)

    def look(self) -> None:
        """Reads all images once: checks the header of every picture, computes `digests`, and adds to `notes`.

        Raises ValueError for a picture that cannot be used, as `read` does.
        """
        self.digests, grey, coloured = self._reader.looked_at(self._order, self.labels)
        if grey and coloured:
            self.notes += (
                f"{grey:,} of {grey + coloured:,} pictures are grey: their channel is repeated to three",
            )

    @property
    def digest(self) -> str:
        """The sha256 of the images in order, with their labels. It does not depend on the path.

        For arrays (npz, tensors in Parquet, CIFAR) it covers pixels and labels, for pictures (folder, zip,
        tar, Hugging Face's Parquet) the files' bytes and labels. It is equal across the formats of either
        kind. All images are read once, unless `look` already did.
        """
        return self.digests.whole

    @cached_property
    def digests(self) -> Digests:
        """The whole digest (`digest`) and the digests of the rows."""
        return self._reader.digests(self._order, self.labels)

    def labels_of(self, start: int, stop: int) -> np.ndarray | None:
        """Returns the labels of rows [start, stop)."""
        return None if self.labels is None else self.labels[start:stop]

    def read(self, start: int, stop: int) -> list[np.ndarray]:
        """Reads rows [start, stop) with the semantics of list slices. Each image is uint8 [H, W, 1|3]; sizes
        may differ. If `digests` are known, each row is compared with its digest.

        Raises ValueError for damaged rows, and Changed for rows that differ from the listing.
        """
        known: Digests | None = vars(self).get("digests")
        expected = None if known is None or known.rows is None else known.rows[start:stop]
        return list(unbroken(self._reader.read(self._order[start:stop], expected)))


Images = FileImages | StepImages


def is_step(source: str) -> bool:
    """Returns True for the address of a step: an address that ends in `[start:stop]`, or whose parent is a
    root. A file or folder of exactly that name is not a step, unless it is the folder of a step.

    Raises as `open_images` does.
    """
    if names_range(source):
        return not _is_path(source)
    location = locate_images(source)[0]
    kind = location.kind()
    if kind == "file":
        return False
    if isinstance(location, LocalLocation):
        parent, name = str(location.path.parent), location.path.name
        return location.path.parent.is_dir() and _may_be_step(name, kind) and is_root(parent)
    assert isinstance(location, S3Location)
    parent, _, name = location.url.rpartition("/")
    return bool(location.key) and _may_be_step(name, kind) and is_root(parent)


def _is_path(source: str) -> bool:
    """Returns True for a path or URL whose brackets belong to a name, as in `run[v2]`."""
    return not source.startswith("memory://") and locate(source).kind() is not None


def _may_be_step(name: str, kind: str | None) -> bool:
    """Returns True for the name of a step's folder. It also returns True if no such folder exists, since the
    address may be the beginning of a step's name."""
    return kind is None or is_step_name(name)


def open_images(
    source: str, *, ignore_labels: bool = False, drop_alpha: bool = False, gaps: bool = False
) -> Images:
    """Opens images at a path or an `s3://` URL, or the samples at the address of a step.

    Args:
        ignore_labels: read no labels.
        drop_alpha: drop the alpha channel of transparent pictures, which are refused otherwise.
        gaps: accept numbered images with missing numbers, as part of a larger set, with a note.

    Raises:
        ValueError: the source does not exist, has an unknown form, mixes forms, or holds unusable images.
        StoreError: S3 or a root cannot be reached.
    """
    if source in PACKAGED:
        return FileImages(source, ignore_labels)
    if is_step(source):
        return StepImages(source, ignore_labels)
    location = locate_images(source)[0]
    if location.kind() == "folder" and is_root(location.url):
        steps = ", ".join(step_names(open_store(location.url)))
        raise ValueError(
            f"expected images at {source}, found the root of a run; add the name of one of its steps: "
            f"{steps or 'it has none'}"
        )
    images = FileImages(source, ignore_labels, drop_alpha)
    if images.gap and not gaps:
        raise images.gap
    if images.gap:
        images.notes += (images.gap.note,)
    return images

"""Images to evaluate, from wherever they lie: `open_images` tells the forms apart.

Promises that what cannot be what was meant is refused when it is opened, with what was found; that reading
needs memory for the rows asked for and no more than a row group or a shard beside; and that a reader can be
pickled and used in another process. A file that changes while it is read is not noticed. One reader is for
one thread.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np

from dgflow.images.places import LocalPlace, Place, S3Place, open_place
from dgflow.store.address import is_root, names_range, step_names

_FORMS = "an .npz, a folder or .zip of images, a .parquet file or a folder of them, or a step of a run (ROOT/STEP[start:stop])"


class Images(Protocol):
    """Images with their order, classes and origin."""

    @property
    def source(self) -> str:
        """As it was given; one with secrets in it is refused."""
        ...

    @property
    def digest(self) -> str:
        """A sha256 of what decides the pixels, their order and the labels, and of nothing else, such as the
        path.

        Arrays (npz, tensors in Parquet): of pixels and labels, equal across those. Pictures (folder, zip,
        Hugging Face's Parquet): of the files' bytes and the labels, equal across those. Steps: the digest of
        the slice's manifest. Made when first asked for, which reads everything once, except for steps.
        """
        ...

    @property
    def rows(self) -> int: ...

    @property
    def labels(self) -> np.ndarray | None:
        """Classes, int64 [rows]; None where there are none."""
        ...

    @property
    def seed(self) -> int | None:
        """The seed that a step generated them from; None where that is not known."""
        ...

    @property
    def seeding(self) -> Literal["counter", "edm"] | None:
        """How the step made a sample of its seed and index; None where that is not known."""
        ...

    @property
    def first_index(self) -> int | None:
        """The index of row 0, where the rows carry consecutive indices; None where they carry none."""
        ...

    def labels_of(self, start: int, stop: int) -> np.ndarray | None:
        """Those of rows [start, stop), where `labels` would read more than is wanted."""
        ...

    def read(self, start: int, stop: int) -> list[np.ndarray]:
        """Rows [start, stop), as a slice of a list would: uint8 [H, W, 1|3] each, sizes may differ.

        Raises ValueError for damaged ones.
        """
        ...


def is_step(source: str) -> bool:
    """Whether this addresses a step: it ends in `[start:stop]`, or is no file and its parent is a root.

    Raises as `open_images`.
    """
    if names_range(source):
        return True
    place = open_place(source)
    return place.kind() != "file" and _parent_is_root(place)


def open_images(source: str) -> Images:
    """Open images at a path or an `s3://` url, or the samples at the address of a step.

    Told apart by suffix (`.npz`, `.zip`, `.parquet`), by `[start:stop]` or a parent that is a root (a step),
    else by what a folder holds.

    Raises:
        ValueError: nothing is there, or none of these forms, or a mixture; images of another form (see the
            readers).
        StoreError: S3 or a root cannot be reached.
    """
    # pyarrow and PIL are only needed by some.
    if is_step(source):
        from dgflow.images.step_rows import StepImages

        return StepImages(source)
    place = open_place(source)
    kind = place.kind()
    if kind == "file":
        return _open_file(source, place)
    if kind is None:
        raise ValueError(f"expected images at {source}, found nothing there; give {_FORMS}")
    return _open_folder(source, place)


def _open_file(source: str, place: Place) -> Images:
    name = source.lower()
    if name.endswith(".npz"):
        from dgflow.images.npz import NpzImages

        return NpzImages(source, place)
    if name.endswith(".zip"):
        from dgflow.images.files import Pictures, ZipFiles

        return Pictures(source, ZipFiles(source, place))
    if name.endswith(".parquet"):
        from dgflow.images.parquet import ParquetImages

        return ParquetImages(source, place, [""])
    raise ValueError(f"expected images at {source}, found a file of another kind; give {_FORMS}")


def _open_folder(source: str, place: Place) -> Images:
    from dgflow.images.files import Pictures, is_picture

    names = place.files()
    if "dgflow.json" in names:
        from dgflow.store.open import open_store

        steps = ", ".join(step_names(open_store(source)))
        raise ValueError(
            f"expected images at {source}, found the root of a run; add the name of one of its steps: "
            f"{steps or 'it has none'}"
        )
    kinds = {
        "images": [name for name in names if is_picture(name)],
        ".parquet": [name for name in names if name.lower().endswith(".parquet")],
        ".npz": [name for name in names if name.lower().endswith(".npz")],
        ".zip": [name for name in names if name.lower().endswith(".zip")],
    }
    found = {kind: files for kind, files in kinds.items() if files}
    if found.keys() == {"images"}:
        return Pictures(source, place)
    if found.keys() == {".parquet"}:
        from dgflow.images.parquet import ParquetImages

        return ParquetImages(source, place, kinds[".parquet"])
    there = ", ".join(f"{len(files):,} {kind} (such as {files[0]})" for kind, files in found.items()) or (
        f"{len(names):,} files of no known kind" if names else "an empty folder"
    )
    raise ValueError(
        f"expected either images or .parquet files in {source}, found {there}; give one of {_FORMS}"
    )


def _parent_is_root(place: Place) -> bool:
    if isinstance(place, LocalPlace):
        return place.path.parent.is_dir() and is_root(str(place.path.parent))
    assert isinstance(place, S3Place)
    return bool(place.key) and is_root(place.url.rpartition("/")[0])

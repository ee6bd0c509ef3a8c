"""Compares a source with its listing without reading its images.

Only directories, footers, checksums and sizes are read. Changed pixels in a file of the same size are
detected here for zips, npz and most Parquet files. In other forms they are detected when the images are read,
except for a picture in a folder, whose change is not detected. A source that cannot be reached counts as
unchanged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from dgflow.files import tars
from dgflow.files.locations import LocalLocation, file_size
from dgflow.images.discovery import list_images
from dgflow.images.listing import Changed, Listing
from dgflow.images.packaged import FORMS
from dgflow.images.picture_lists import LABELS
from dgflow.images.pictures import FORMER_SUFFIXES
from dgflow.images.splits import has_splits, locate_images
from dgflow.store.objects import StoreError


def check_unchanged(source: str, listing: Listing, folder: str = "") -> None:
    """Raises Changed if files were added, removed or replaced since the listing."""
    if listing.form in FORMS:
        return
    location, _ = locate_images(source, folder)
    with contextlib.suppress(OSError, StoreError):  # the source cannot be reached from here
        kind, local = location.kind(), isinstance(location, LocalLocation)
        if kind is None or (kind == "folder" and not local):  # listing a folder in S3 takes minutes
            return
        if kind == "file":
            _compare(source, dict(listing.files), {"": file_size(location)})
        elif listing.form in ("tar", "cifar"):
            sizes = location.contents().sizes
            chosen = [name for name, _ in listing.files if name in sizes]
            if listing.form == "tar":
                chosen = [name for name in sizes if tars.is_tar(name)]
            _compare(source, dict(listing.files), {name: sizes[name] for name in chosen})
        if local and listing.form in ("folder", "zip", "npz", "parquet"):
            labelled = listing.form == "folder" and listing.labels is not None
            try:
                every_split = listing.names is not None and has_splits(listing.names.to_pylist())
                current = list_images(source, labelled, folder, every_split=every_split)
            except ValueError as error:
                raise Changed(
                    f"expected the data at {source} as when it was listed, found another form: {error}"
                ) from error
            _compare(source, _content(listing), _as_then(_content(current), listing))
            if labelled:
                _compare(source, {LABELS: _labels(listing)}, {LABELS: _labels(current)})


def _content(listing: Listing) -> dict[str, Any]:
    """Returns for each file or picture the size, checksum or digest that is cheap to read."""
    if listing.names is None:
        facts = zip(listing.files, listing.digest.split(), strict=True)
        return {name: (size, digest) for (name, size), digest in facts}
    columns = [listing.columns[name].tolist() for name in ("size", "crc") if name in listing.columns]
    return dict(zip(listing.names.to_pylist(), zip(*columns, strict=True), strict=True))


def _as_then(current: dict[str, Any], listing: Listing) -> dict[str, Any]:
    """Returns `current` without the pictures whose suffixes the listing's version of dgflow did not list."""
    if listing.form == "parquet" or not _all_former(_content(listing)):
        return current
    return {name: facts for name, facts in current.items() if _all_former([name])}


def _all_former(names: Iterable[str]) -> bool:
    return all(not name or name.lower().endswith(FORMER_SUFFIXES) for name in names)


def _labels(listing: Listing) -> list[int] | None:
    return None if listing.labels is None else listing.labels.tolist()


def _compare(source: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    more, fewer = found.keys() - expected.keys(), expected.keys() - found.keys()
    other = [name for name in expected.keys() & found.keys() if expected[name] != found[name]]
    kinds = {"more": more, "fewer": fewer, "changed": other}
    counts = ", ".join(f"{len(names):,} {kind}" for kind, names in kinds.items() if names)
    if counts:
        first = min([*more, *fewer, *other])
        raise Changed(
            f"expected the data at {source} as when it was listed, found files: "
            f"{counts}{f' (the first {first})' if first else ''}"
        )

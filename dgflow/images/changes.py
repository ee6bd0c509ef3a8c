"""Whether a source still is what was listed of it, as far as that is cheap to see.

Promises that nothing but directories, footers and sizes is read: pixels that change within a file of the same
    size are found in zips, npz
and mostly in Parquet, else when they are read, or not at all (a picture in a folder). A source that cannot be
    seen is no change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from dgflow.images import tars, zips
from dgflow.images.files import is_picture
from dgflow.images.listing import Changed, Listing
from dgflow.images.look import LABELS, size_of
from dgflow.images.npz import NpzImages
from dgflow.images.order import folder_classes, listed_labels
from dgflow.images.parquet_rows import footer_sha256, training_split
from dgflow.images.places import LocalPlace, Place, open_place
from dgflow.store.objects import StoreError


def check_unchanged(source: str, listing: Listing, folder: str = "") -> None:
    """Raises Changed where files are more, fewer or others than were listed."""
    if listing.form == "mnist-5k":
        return
    place = open_place(source, folder)
    with contextlib.suppress(OSError, StoreError):  # it cannot be seen from here
        kind = place.kind()
        if kind is None or (
            kind == "folder" and not isinstance(place, LocalPlace)
        ):  # to list a folder in S3 takes minutes
            return
        there = place.sizes() if kind == "folder" else {"": size_of(place)}
        _compare(source, _listed_sizes(listing), _of_kind(source, listing, there))
        if isinstance(place, LocalPlace):
            _compare_content(source, place, listing, there)


def _listed_sizes(listing: Listing) -> dict[str, Any]:
    if listing.form == "folder":
        assert listing.names is not None
        return dict(zip(listing.names.to_pylist(), listing.columns["size"].tolist(), strict=True))
    return dict(listing.files)


def _of_kind(source: str, listing: Listing, there: Mapping[str, int]) -> dict[str, int]:
    """Of the files that are there, those that would be listed."""
    if "" in there:
        return dict(there)
    if listing.form == "parquet":
        chosen = training_split([name for name in there if name.lower().endswith(".parquet")], source)
    elif listing.form == "cifar":
        chosen = [name for name, _ in listing.files if name in there]
    else:
        chosen = [
            name for name in there if (tars.is_tar(name) if listing.form == "tar" else is_picture(name))
        ]
    return {name: there[name] for name in chosen}


def _compare_content(source: str, place: Place, listing: Listing, there: Mapping[str, int]) -> None:
    names = [] if listing.names is None else listing.names.to_pylist()
    if listing.form == "npz":
        _compare(source, {"": listing.digest}, {"": NpzImages(source, place, labelled=False).listed_digest})
    elif listing.form == "zip":
        found = {
            member.name: (member.size, member.crc)
            for member in zips.members(place, source)
            if is_picture(member.name)
        }
        sizes, checksums = (listing.columns[name].tolist() for name in ("size", "crc"))
        _compare(source, dict(zip(names, zip(sizes, checksums, strict=True), strict=True)), found)
    elif listing.form == "parquet":
        footers = {}
        for name, _ in listing.files:
            with place.open(name) as handle:
                footers[name] = footer_sha256(handle)
        _compare(source, dict(zip(footers, listing.digest.split(), strict=True)), footers)
    elif listing.form == "folder" and listing.labels is not None:
        labels = (
            listed_labels(names, place.read_many([LABELS])[0], source)
            if LABELS in there
            else folder_classes(names)[0]
        )
        _compare(
            source, {LABELS: listing.labels.tolist()}, {LABELS: None if labels is None else labels.tolist()}
        )


def _compare(source: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    more, fewer = found.keys() - expected.keys(), expected.keys() - found.keys()
    other = [name for name in expected.keys() & found.keys() if expected[name] != found[name]]
    kinds = {"more": more, "fewer": fewer, "changed": other}
    said = ", ".join(f"{len(names):,} {kind}" for kind, names in kinds.items() if names)
    if said:
        first = min([*more, *fewer, *other])
        raise Changed(
            f"expected the data at {source} as when it was listed, found files: "
            f"{said}{f' (the first {first})' if first else ''}"
        )

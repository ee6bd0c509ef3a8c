"""Recognises and lists image sources: `list_images` determines the form of a source and lists its images
once.

Truncated archives, damaged directories and mixtures of forms are refused before any image is read. Pictures
are listed in the order of their names, so a folder, a zip and a tar of the same pictures give the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dgflow.files import tars, zips
from dgflow.files.lfs import check_fetched
from dgflow.files.locations import Location, file_size
from dgflow.images.cifar import CifarBatches, find_batches
from dgflow.images.digests import pixels_sha256
from dgflow.images.labels import NUMBER_THEM, Classes, Labelled, array_of, taken
from dgflow.images.listing import Form, Listing
from dgflow.images.npz import NpzImages
from dgflow.images.packaged import PACKAGED
from dgflow.images.parquet import ImageFile
from dgflow.images.picture_lists import (
    LABELS,
    Asked,
    Pictures,
    chosen_pictures,
    is_picture,
    left_out,
    link_notes,
    listing_of,
    members_by_name,
)
from dgflow.images.pictures import SUFFIXES
from dgflow.images.readers import OPEN_TARS, read_whole
from dgflow.images.splits import locate_images, note_of, split_of_files

_FORMS = (
    "an .npz, a folder of images (one sub-folder per class), a .zip or a .tar of one, a .parquet file or a "
    f"folder of them, CIFAR's archive, {', '.join(PACKAGED)}, or, to evaluate or export, a step of a run "
    "(ROOT/STEP[start:stop])"
)


def list_images(
    source: str, labelled: Labelled = True, folder: str = "", *, every_split: bool = False
) -> Listing:
    """Returns the listing of the images at a path or an `s3://` URL.

    A source is a folder, zip or tar of pictures, a folder or tar of tars, Parquet, an npz, CIFAR's own
    archives or their unpacked files, or digits in an installed package. Of several splits, `train` is listed,
    or the split that `SOURCE@SPLIT` names.

    Args:
        labelled: whether labels are read. Optional labels that are not integers are interpreted or left out,
            with a note.
        folder: the folder that a relative path starts from.
        every_split: list the pictures of all splits, as earlier versions did.

    Raises:
        ValueError: the source does not exist, has an unknown form, mixes forms, has several splits but no
            `train`, or is truncated or damaged.
        StoreError: S3 cannot be reached.
    """
    if source in PACKAGED:
        return _whole(PACKAGED[source].form, source, None, ())
    location, split = locate_images(source, folder)
    asked = Asked(source, split, labelled, every_split)
    kind = location.kind()
    if kind is None:
        raise ValueError(
            f"expected images at {source}, found nothing there (looked at {location.url}); give {_FORMS}"
        )
    if kind == "folder":
        return _list_folder(asked, location)
    check_fetched(location, {"": file_size(location)})
    name = (source.removesuffix(f"@{split}") if split else source).lower()
    if name.endswith(".zip"):
        return _list_zip(asked, location)
    if tars.is_tar(name):
        return _list_tars(asked, location, {"": file_size(location)})
    if split:
        raise ValueError(
            f"expected the split {split} in {source.removesuffix(f'@{split}')}, found a file without splits; "
            "leave out what follows the @"
        )
    if name.endswith(".npz"):
        return _list_npz(source, location, labelled)
    if name.endswith(".parquet"):
        return _list_parquet(asked, location, [""])
    raise ValueError(f"expected images at {source}, found a file of another kind; give {_FORMS}")


def _list_folder(asked: Asked, location: Location) -> Listing:
    source, contents = asked.source, location.contents()
    sizes = contents.sizes
    if (batches := find_batches(list(sizes), source)) is not None:
        return _list_cifar(asked, location, batches, sizes)
    kinds = {
        "images": [name for name in sizes if is_picture(name)],
        ".parquet": [name for name in sizes if name.lower().endswith(".parquet")],
        ".tar": [name for name in sizes if tars.is_tar(name)],
    }
    found = {kind: names for kind, names in kinds.items() if names}
    check_fetched(location, {name: sizes[name] for names in found.values() for name in names})
    notes = link_notes(source, contents, (*SUFFIXES, ".parquet", *tars.SUFFIXES))
    match list(found.items()):
        case [("images", names)]:
            listing = _list_pictures(asked, location, names, sizes)
        case [(".parquet", names)]:
            listing = _list_parquet_folder(asked, location, names, sizes)
        case [(".tar", names)]:
            listing = _list_tars(asked, location, {name: sizes[name] for name in names})
            notes = (*filter(None, (left_out(sizes.keys() - set(names)),)), *notes)
        case _:
            raise _mixture(source, found, sizes)
    return replace(listing, notes=(*listing.notes, *notes))


def _mixture(source: str, found: dict[str, list[str]], sizes: dict[str, int]) -> ValueError:
    for kind in (".npz", ".zip"):
        found |= {kind: names} if (names := [name for name in sizes if name.lower().endswith(kind)]) else {}
    there = ", ".join(f"{len(names):,} {kind} (such as {names[0]})" for kind, names in found.items()) or (
        f"{len(sizes):,} files of no known kind" if sizes else "an empty folder"
    )
    return ValueError(
        f"expected either images, .parquet files or tars in {source}, found {there}; give {_FORMS}"
    )


def _list_pictures(asked: Asked, location: Location, names: list[str], sizes: dict[str, int]) -> Listing:
    pictures = chosen_pictures(asked, names, sizes.keys() - set(names))
    labels = location.read_many([LABELS])[0] if asked.labelled and LABELS in sizes else None
    columns = {"size": [sizes[name] for name in pictures.split.names]}
    return listing_of("folder", asked, pictures, labels, columns)


def _list_parquet_folder(
    asked: Asked, location: Location, names: list[str], sizes: dict[str, int]
) -> Listing:
    split = split_of_files(names, asked.source, asked.split)
    listing = _list_parquet(asked, location, split.names)
    note = "" if asked.split else note_of(split, asked.source, listing.rows)
    others = left_out(sizes.keys() - set(names))
    return replace(listing, split=split.name, notes=(*filter(None, (note, others)), *listing.notes))


def _list_npz(source: str, location: Location, labelled: Labelled) -> Listing:
    npz = NpzImages(source, location)
    labels, note = npz.labels(labelled) if labelled else Classes(None)
    files = (("", npz.size),)
    return Listing("npz", npz.shape[0], files, labels=labels, digest=npz.digest, notes=_noted(note))


def _list_parquet(asked: Asked, location: Location, names: Sequence[str]) -> Listing:
    """Lists the rows of files from their footers, and reads their labels if wanted. `names` are names within
    `location`, or "" for the location itself."""
    source, labelled = asked.source, asked.labelled
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
        notes=_noted(classes.note),
    )


def _cells_of(file: ImageFile, label: str, labelled: Labelled) -> list[Any]:
    """Returns the labels of a file. Raises ValueError if labels are needed and are not integers."""
    if labelled == "optional":
        return file.labels(label)
    try:
        return file.numbers(label).tolist()
    except ValueError as error:
        raise ValueError(f"{error}; {NUMBER_THEM}") from error


def _list_zip(asked: Asked, location: Location) -> Listing:
    source = asked.source
    members = zips.members(location, source)
    files = [member for member in members if not member.is_link]
    pictures = _chosen(asked, [member.name for member in files])
    links = [member.name for member in members if member.is_link]
    pictures = pictures._replace(notes=(*pictures.notes, *_links_left_out(links)))
    labels_json = None
    if asked.labelled and (labels := next((each for each in files if each.name == LABELS), None)):
        with location.open() as file:
            labels_json = zips.read_member(file, labels.offset, labels.stored, labels.size, labels.crc)
    chosen = members_by_name(source, files, pictures.split.names)
    columns = {
        name: [getattr(member, name) for member in chosen] for name in ("size", "offset", "stored", "crc")
    }
    return listing_of("zip", asked, pictures, labels_json, columns, (("", file_size(location)),))


def _list_tars(asked: Asked, location: Location, files: dict[str, int]) -> Listing:
    source = asked.source
    compressed = [name for name in files if tars.is_compressed(name or location.url)]
    if len(compressed) > OPEN_TARS:
        raise ValueError(
            f"expected at most {OPEN_TARS} compressed tars in {source}, found {len(compressed):,}, which "
            "every worker would decompress repeatedly; store them as uncompressed .tar, or unpack them"
        )
    members: list[tars.Member] = []
    numbers: list[int] = []  # the number of the file of each picture
    digests, labels_json, links = [], None, []
    for number, name in enumerate(files):
        with tars.open_tar(location, name) as file:
            found, unusable = tars.members(file, f"{source}: {name}" if name else source)
            # A compressed tar was read in full when it was decompressed.
            digests.append(tars.content_sha256(file) if tars.is_compressed(name or location.url) else "-")
            if not name:
                if (batches := find_batches([member.name for member in found], source)) is not None:
                    return _list_cifar(asked, location, batches, files)
                labels = next((member for member in found if member.name == LABELS), None)
                if asked.labelled and labels is not None:
                    file.seek(labels.offset)
                    labels_json = file.read(labels.size)
        prefix = f"{tars.stem(name)}/" if name else ""
        members += [member._replace(name=prefix + member.name) for member in found]
        numbers += [number] * len(found)
        links += [prefix + each for each in unusable]
    pictures = _chosen(asked, [member.name for member in members])
    pictures = pictures._replace(notes=(*pictures.notes, *_links_left_out(links)))
    number_of = dict(zip((member.name for member in members), numbers, strict=True))
    chosen = members_by_name(source, members, pictures.split.names)
    columns = {
        "size": [member.size for member in chosen],
        "file": [number_of[member.name] for member in chosen],
        "offset": [member.offset for member in chosen],
        "crc": [member.crc for member in chosen],
    }
    digest, listed = " ".join(digests), tuple(files.items())
    return listing_of("tar", asked, pictures, labels_json, columns, listed, digest, "" not in files)


def _chosen(asked: Asked, names: Sequence[str]) -> Pictures:
    """Returns the pictures of an archive. Raises ValueError if there are none."""
    pictures = [name for name in names if is_picture(name)]
    if not pictures:
        raise ValueError(
            f"expected images ({', '.join(SUFFIXES)}) in {asked.source}, found {len(names):,} other files; "
            f"give {_FORMS}"
        )
    others = [name for name in names if not is_picture(name)]
    return chosen_pictures(asked, list(dict.fromkeys(pictures)), others)


def _links_left_out(names: list[str]) -> tuple[str, ...]:
    if not names:
        return ()
    more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
    return (f"links left out, since their targets are not in the archive: {names[0]}{more}",)


def _noted(note: str) -> tuple[str, ...]:
    return (note,) if note else ()


def _list_cifar(asked: Asked, location: Location, batches: CifarBatches, sizes: dict[str, int]) -> Listing:
    """Lists CIFAR's batches. `sizes` are the sizes of the folder's files, or that of the archive under ""."""
    if asked.split not in ("", "train"):
        raise ValueError(
            f"expected the split train in {asked.source.removesuffix(f'@{asked.split}')}, found "
            f"{asked.split}: only the training images of CIFAR's archive are read; leave out the @ and what "
            "follows it"
        )
    names = [""] if "" in sizes else batches.names
    listing = _whole("cifar", asked.source, location, tuple((name, sizes[name]) for name in names))
    note = "" if asked.split else f"the {listing.rows:,} images of the split train are read"
    return replace(listing, split="train", notes=_noted(note))


def _whole(form: Form, source: str, location: Location | None, files: tuple[tuple[str, int], ...]) -> Listing:
    images, labels = read_whole(source, location)
    return Listing(
        form, len(images), files, labels=labels, digest=pixels_sha256([images.data], images.shape, labels)
    )

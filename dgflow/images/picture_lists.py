"""Selects the pictures to read among the files of a folder, a zip or tars, with their classes and notes on
files that are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from dgflow.files.trees import Contents
from dgflow.images.class_folders import folder_classes
from dgflow.images.labels import Labelled, listed_labels
from dgflow.images.listing import Form, Listing
from dgflow.images.pictures import SUFFIXES
from dgflow.images.splits import Split, note_of, split_of_pictures

LABELS = "dataset.json"


class Named(Protocol):
    """A file in an archive."""

    @property
    def name(self) -> str: ...


@dataclass(frozen=True)
class Asked:
    """A request to list a source.

    Attributes:
        source: the address.
        split: the split that the address names, "" for the default.
        labelled: the labels that are wanted.
        every_split: list all splits, as earlier versions did.
    """

    source: str
    split: str = ""
    labelled: Labelled = True
    every_split: bool = False


class Pictures(NamedTuple):
    """The pictures to read, by their split, and notes on the files that are left out."""

    split: Split
    notes: tuple[str, ...]


def is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def chosen_pictures(asked: Asked, names: Sequence[str], others: Collection[str]) -> Pictures:
    """Returns the pictures of one split among `names`, sorted by name. `others` are the files that are not
    pictures. Raises ValueError as `split_of_pictures` does.
    """
    split = Split(sorted(names)) if asked.every_split else _split(asked, sorted(names))
    note = "" if asked.split else note_of(split, asked.source, len(split.names))
    return Pictures(split, tuple(filter(None, (note, left_out(others)))))


def members_by_name(source: str, members: Iterable[Named], names: Iterable[str]) -> list:
    """Returns the members with these names, in the order of the names. Raises ValueError if a name occurs
    twice."""
    found: dict[str, Named] = {}
    wanted = set(names)
    for member in members:
        if member.name not in wanted:
            continue
        if member.name in found:
            raise ValueError(
                f"expected each name once in {source}, found {member.name} twice; write the archive again"
            )
        found[member.name] = member
    return [found[name] for name in names]


def listing_of(
    form: Form,
    asked: Asked,
    pictures: Pictures,
    labels_json: bytes | None,
    columns: dict[str, list[int]],
    files: tuple[tuple[str, int], ...] = (),
    digest: str = "",
    tars: bool = False,
) -> Listing:
    """Returns the listing of pictures, with classes from `dataset.json` or from their folders.

    Args:
        tars: whether the first folder in a picture's path is the tar that holds it.
    """
    names, level = pictures.split.names, pictures.split.level
    labels, classes, note = None, (), ""
    if labels_json is not None:
        labels, note = listed_labels(names, labels_json, asked.source, asked.labelled)
    elif asked.labelled:
        labels, classes, note = folder_classes([_without(name, level) for name in names], tars)
    return Listing(
        form,
        len(names),
        files,
        pa.array(names, pa.string()),
        labels,
        classes,
        digest,
        {name: np.array(values, np.int64) for name, values in columns.items()},
        split=pictures.split.name,
        notes=(*pictures.notes, *filter(None, (note,))),
    )


def left_out(names: Collection[str]) -> str:
    """Returns a note that counts the files that are not read, by suffix; "" if there are none."""
    names = [name for name in names if name != LABELS]
    if not names:
        return ""
    counted = Counter(_suffix(name) for name in names)
    counts = sorted(counted.items(), key=lambda each: (-each[1], each[0]))
    kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in counts[:5])
    more = f" and {len(counts) - 5:,} more kinds" if len(counts) > 5 else ""
    return f"{len(names):,} {'file is' if len(names) == 1 else 'files are'} left out: {kinds}{more}"


def link_notes(source: str, contents: Contents, is_data: Collection[str]) -> tuple[str, ...]:
    """Returns notes on the links below a folder. `is_data` are the suffixes of the files that are read.

    Raises ValueError for a broken link with such a suffix.
    """
    for name in contents.unusable:
        if name.lower().endswith(tuple(is_data)):
            raise ValueError(
                f"expected a file at {name} in {source}, found a broken link, or something other than a "
                "regular file; restore the link's target or remove it"
            )
    return tuple(
        text.format(_such(names))
        for names, text in (
            (contents.unusable, "left out, since they are not files: {}"),
            (contents.again, "reached twice and read once: {}"),
            (contents.shared, "links to the same file as another link, so that the file is read twice: {}"),
        )
        if names
    )


def _split(asked: Asked, names: list[str]) -> Split:
    return split_of_pictures(names, asked.source, asked.split)


def _without(name: str, level: int | None) -> str:
    """Returns a path without its folder at depth `level`."""
    if level is None:
        return name
    parts = name.split("/")
    return "/".join(parts[:level] + parts[level + 1 :])


def _suffix(name: str) -> str:
    base = name.rpartition("/")[2]
    return base[base.rindex(".") :].lower() if "." in base else "without a suffix"


def _such(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")

"""Recognises the splits of a data set by the names of folders and files, and selects one by the address
`SOURCE@SPLIT`.

A split is never a class. Of several splits, `train` is read, or the split that the address names. If the
choice is ambiguous, the error lists the splits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from dgflow.files.locations import Location, locate

_KINDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
    "extra": ("extra",),
    "unlabeled": ("unlabeled", "unlabelled", "unsupervised"),
}
_KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names}
_WORDS = "|".join(sorted(_KIND_OF, key=len, reverse=True))
_EXACT = re.compile(_WORDS)
# One of these words between non-letters, as in train2017 and seg_train.
_WITHIN = re.compile(rf"(?P<before>(?:.*[^a-z])?)(?P<word>{_WORDS})(?P<after>(?:[^a-z].*)?)")
_SHARD = re.compile(r"([A-Za-z]\w*)-\d+-of-\d+(?:-[0-9a-f]+)?")  # Hugging Face's file names
# The text before the @ of a URL cannot be credentials: those contain a colon, and keys never precede them.
_S3_ADDRESS = re.compile(r"(?P<base>s3://[a-z0-9.-]+/[^@?#:]+)@(?P<split>[A-Za-z][\w.-]*)")
_ADDRESS = re.compile(r"(?P<base>.*[^/@])@(?P<split>[A-Za-z][\w.-]*)")


class Split(NamedTuple):
    """The part of a source that is read.

    Attributes:
        names: the names of its files, in order.
        name: the name of the split, "" if the source has no others.
        left_out: the other splits, with their numbers of files.
        level: the depth of the folder that names the split, which is not a class; None without such a folder.
    """

    names: list[str]
    name: str = ""
    left_out: tuple[tuple[str, int], ...] = ()
    level: int | None = None


def locate_images(source: str, folder: str = "") -> tuple[Location, str]:
    """Returns the location of a source, and the split that its address `SOURCE@SPLIT` names, else "". If a
    file or folder has exactly the address as its name, no split is named. Raises as `locate` does."""
    if (match := _S3_ADDRESS.fullmatch(source)) and _WITHIN.fullmatch(match["split"].lower()):
        return locate(match["base"], folder), match["split"]
    location = locate(source, folder)
    match = _ADDRESS.fullmatch(source)
    if match is None or source.startswith("s3://") or location.kind() is not None:
        return location, ""
    return locate(match["base"], folder), match["split"]


def split_of_pictures(names: Sequence[str], source: str, wanted: str) -> Split:
    """Returns the pictures of one split, by the folders in their paths.

    Splits are folders of one level with names such as train and val, or train2017 and val2017. There have to
    be at least two, or the one that is `wanted`.

    Raises:
        ValueError: there are several splits without `train`, other folders beside the splits, or no split
            named `wanted`.
    """
    folders = {name.rpartition("/")[0] for name in names}
    depth = max((folder.count("/") + 1 for folder in folders if folder), default=0)
    there: set[str] = set()
    for level in range(depth):
        found = {_part(folder, level) for folder in folders}
        splits = _splits(found)
        there |= set(splits)
        if wanted and (named := _named(wanted, found, splits)):
            return _cut(names, level, named, _one(named, wanted), splits)
        if wanted or not splits:
            continue
        chosen = {name for name, kind in splits.items() if kind == "train"}
        others = found - set(splits)
        if not chosen or others:
            raise _unclear("pictures", source, splits, others)
        return _cut(names, level, chosen, _one(chosen, "train"), splits)
    if wanted:
        raise _not_there(source, wanted, there)
    return Split(list(names))


def split_of_files(names: Sequence[str], source: str, wanted: str) -> Split:
    """Returns the Parquet files of one split, by their folders or their own names, as Hugging Face names them
    (`train-00000-of-00040.parquet`, `test/0000.parquet`, `validation.parquet`).

    Raises:
        ValueError: there are several splits without `train`, files that belong to no split, or no split named
            `wanted`.
    """
    kinds = {name: _split_of_file(name) for name in names}
    found = set(kinds.values())
    splits = {kind: _KIND_OF.get(kind, kind) for kind in found if kind}
    if wanted:
        chosen = _named(wanted, found, splits)
        if not chosen:
            raise _not_there(source, wanted, set(splits))
    elif not found & set(_KIND_OF):
        return Split(list(names))
    elif len(found) == 1:
        chosen = found
    else:
        chosen = {name for name, kind in splits.items() if kind == "train"}
        if not chosen or "" in found:
            others = {name for name in names if not kinds[name]}
            raise _unclear("Parquet", source, splits, others)
    return _parted(names, kinds.__getitem__, chosen, _one(chosen, wanted or "train"))


def has_splits(names: Sequence[str]) -> bool:
    """Returns True if the pictures are in folders of several splits."""
    folders = {name.rpartition("/")[0] for name in names}
    depth = max((folder.count("/") + 1 for folder in folders if folder), default=0)
    return any(_splits({_part(folder, level) for folder in folders}) for level in range(depth))


def note_of(split: Split, source: str, images: int) -> str:
    """Returns a note on the split that is read by default; "" if there are no others."""
    if not split.left_out:
        return ""
    others = ", ".join(f"{name} ({count:,} file{'s' * (count != 1)})" for name, count in split.left_out)
    return (
        f"the {images:,} images of the split {split.name} are read, and {others} left out; for another "
        f"split: {source}@{split.left_out[0][0]}"
    )


def _splits(found: Collection[str]) -> dict[str, str]:
    """Returns the folders of a level that are splits, with their kinds. The result is empty for fewer than
    two."""
    exact = {name: _KIND_OF[name.lower()] for name in found if _EXACT.fullmatch(name.lower())}
    if len({name.lower() for name in exact}) > 1:
        return exact
    alike: dict[tuple[str, str], dict[str, str]] = {}
    for name in found:
        if match := _WITHIN.fullmatch(name.lower()):
            rest = (re.sub(r"\d+", "0", match["before"]), re.sub(r"\d+", "0", match["after"]))
            alike.setdefault(rest, {})[name] = _KIND_OF[match["word"]]
    best = max(alike.values(), key=lambda names: len(set(names.values())), default={})
    return best if len(set(best.values())) > 1 else {}


def _named(wanted: str, found: Collection[str], splits: dict[str, str]) -> set[str]:
    """Returns the folders of a level, or the splits of files, that an address names. An exact name takes
    precedence over the kind of split."""
    wanted = wanted.lower()
    exact = {name for name in found if name.lower() == wanted}
    if exact and (splits or _WITHIN.fullmatch(wanted)):
        return exact
    known = splits or {name: _KIND_OF[name.lower()] for name in found if _EXACT.fullmatch(name.lower())}
    return {name for name, kind in known.items() if kind == _KIND_OF.get(wanted)}


def _cut(
    names: Sequence[str], level: int, chosen: Collection[str], split: str, splits: dict[str, str]
) -> Split:
    parted = _parted(names, lambda name: _part(name.rpartition("/")[0], level), chosen, split)
    counts: dict[str, int] = {}
    for name, count in parted.left_out:  # tars of one split are recognised by their kind
        kind = splits.get(name, name)
        alone = list(splits.values()).count(kind) < 2
        counts[name if alone else kind] = counts.get(name if alone else kind, 0) + count
    return parted._replace(level=level, left_out=tuple(sorted(counts.items())))


def _parted(
    names: Sequence[str], split_of: Callable[[str], str], chosen: Collection[str], split: str
) -> Split:
    kept: list[str] = []
    others: dict[str, int] = {}
    for name in names:
        if (its := split_of(name)) in chosen:
            kept.append(name)
        else:
            others[its] = others.get(its, 0) + 1
    left_out = tuple(sorted(others.items()))
    return Split(kept, split if left_out else "", left_out)


def _part(folder: str, level: int) -> str:
    """Returns the folder of a path at depth `level`, "" if the path ends earlier."""
    parts = folder.split("/")
    return parts[level] if level < len(parts) else ""


def _one(chosen: Collection[str], otherwise: str) -> str:
    return next(iter(chosen)) if len(chosen) == 1 else otherwise


def _split_of_file(name: str) -> str:
    """Returns the split that a file's folder or its name states, else ""."""
    *folders, base = name.split("/")
    for folder in reversed(folders):
        if folder.lower() in _KIND_OF:
            return folder.lower()
    stem = base.rpartition(".")[0].lower()
    if match := _SHARD.fullmatch(stem):
        return match[1]
    match = _WITHIN.fullmatch(stem)
    return match["word"] if match else ""


def _unclear(what: str, source: str, splits: dict[str, str], others: Collection[str]) -> ValueError:
    beside = [f"{min(others) or 'files'} of none"] if others else []
    example = min(splits, key=lambda name: (splits[name] != "train", name))
    return ValueError(
        f"expected {what} with a split train, or without several splits, in {source}, found "
        f"{', '.join([*beside, *sorted(splits)])}; name the split, such as {source}@{example}"
    )


def _not_there(source: str, wanted: str, there: Collection[str]) -> ValueError:
    return ValueError(
        f"expected the split {wanted} in {source.removesuffix(f'@{wanted}')}, found "
        f"{', '.join(sorted(there)) or 'no splits'}; correct what follows the @"
    )

"""Detect Git LFS pointers: short text files that a clone without LFS has instead of the data."""

from collections.abc import Mapping

from dgflow.files.locations import Location

REMEDY = "fetch the file itself, with `git lfs pull` in that repository"
_FIRST = b"version https://git-lfs.github.com/spec/"
_LARGEST = 1024  # maximum bytes of a pointer, by the specification


def is_pointer(data: bytes) -> bool:
    return data.startswith(_FIRST)


def check_fetched(location: Location, sizes: Mapping[str, int]) -> None:
    """Raise ValueError if the first small file at `location` is a Git LFS pointer. Reads one file."""
    name = next((name for name, size in sizes.items() if size <= _LARGEST), None)
    if name is None:
        return
    with location.open(name) as file:
        pointer = is_pointer(file.read(len(_FIRST)))
    if pointer:
        what = f"{location.url}/{name}" if name else location.url
        raise ValueError(f"expected images at {what}, found a Git LFS pointer instead; {REMEDY}")

"""Picture files in a folder or a zip, local or in S3.

Promises the same rows, labels and digest for a folder and for a zip of it. Which file is which row is
`order.lay_out`'s business.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from dgflow.images.digests import pictures_sha256
from dgflow.images.order import lay_out
from dgflow.images.pictures import SUFFIXES, decode_picture
from dgflow.images.places import Place, is_shown

_LABELS = "dataset.json"
_BLOCK = 256  # pictures that are held while their digest is made


class _Files(Protocol):
    def files(self) -> list[str]: ...
    def read_many(self, names: Sequence[str]) -> list[bytes]: ...


class Pictures:
    """Pictures of a folder or a zip; sizes may differ."""

    seed: int | None = None
    seeding: None = None

    def __init__(self, source: str, files: _Files) -> None:
        """Lists the files; reads none but `dataset.json`.

        Raises ValueError where there are no pictures, or as `lay_out`.
        """
        self.source = source
        self._files = files
        found = files.files()
        names = [name for name in found if is_picture(name)]
        if not names:
            raise ValueError(
                f"expected images ({', '.join(SUFFIXES)}) in {source}, found {len(found):,} other files"
            )
        listed = files.read_many([_LABELS])[0] if _LABELS in found else None
        self._names, self.labels, self.first_index = lay_out(names, listed, source)
        self.rows = len(names)

    @property
    def digest(self) -> str:
        """Of the files' bytes, in row order, and the labels; reads every file."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        blocks = (
            self._files.read_many(self._names[start : start + _BLOCK])
            for start in range(0, self.rows, _BLOCK)
        )
        return pictures_sha256((data for block in blocks for data in block), self.labels)

    def labels_of(self, start: int, stop: int) -> np.ndarray | None:
        return None if self.labels is None else self.labels[start:stop]

    def read(self, start: int, stop: int) -> list[np.ndarray]:
        names = self._names[start:stop]
        return [
            decode_picture(data, f"{self.source}: {name}")
            for name, data in zip(names, self._files.read_many(names), strict=True)
        ]


class ZipFiles:
    """The files in a zip. Opened when they are first read."""

    def __init__(self, source: str, place: Place) -> None:
        self.source = source
        self._place = place

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_archive"}

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self._place.open())
        except zipfile.BadZipFile as error:
            raise ValueError(
                f"expected a zip at {self.source}, found another file or one that is cut short ({error})"
            ) from error

    def files(self) -> list[str]:
        names = [name for name in self._archive.namelist() if is_shown(name)]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(
                f"expected each name once in {self.source}, found {twice} twice; write that zip anew"
            )
        return sorted(names)

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        return [self._read(name) for name in names]

    def _read(self, name: str) -> bytes:
        try:
            return self._archive.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise ValueError(
                f"expected a whole file {name} in {self.source}, found one that cannot be read ({error})"
            ) from error


def is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)

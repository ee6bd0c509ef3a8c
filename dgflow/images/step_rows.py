"""Reads the images of a step of a run, by the step's address. Their bytes are verified against their
receipts."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import numpy as np

from dgflow.images.labels import as_labels
from dgflow.store.address import Sealed, find_slice
from dgflow.store.receipts import ManifestEntry
from dgflow.store.shards import Columns
from dgflow.store.step_store import read_rows


class StepImages:
    """The images of a sealed slice, read one shard at a time, with the interface of `sources.FileImages`."""

    split = ""
    gap = None
    notes: tuple[str, ...] = ()

    def __init__(self, address: str, ignore_labels: bool = False) -> None:
        """Finds the slice and reads its first shard. Raises as `find_slice` does, and ValueError if the step
        does not make images."""
        self.source = address
        self._sealed: Sealed = find_slice(address)
        self.rows = self._sealed.stop - self._sealed.start
        self.first_index: int | None = self._sealed.start
        document = self._sealed.document
        fields = document.get("fields", {}) if document.get("kind") == "generate" else {}
        self.seed: int | None = fields.get("seed")
        self.seeding: Literal["counter", "edm"] | None = fields.get("seeding")
        step_store = self._sealed.step_store
        columns = step_store.read_shard(next(self._entries(0, 1)))
        if "image" not in columns:
            if "latent" in columns:
                found = "latents; add a step that decodes them to the recipe, and give its address"
            else:
                found = f"the columns {sorted(columns)}; give the address of a step that makes images"
            raise ValueError(f"expected images in {step_store.name} in {step_store.store.url}, found {found}")
        self._labelled = "label" in columns and not ignore_labels

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_held"}

    def check(self) -> None:
        """Does nothing, since a step's shards hold arrays and no pictures."""

    def look(self) -> None:
        """Does nothing, since receipts record the content of the shards."""

    @property
    def digest(self) -> str:
        """The digest in the slice's manifest, which covers all columns and indices. No shard is read."""
        return self._sealed.digest

    @cached_property
    def labels(self) -> np.ndarray | None:
        """The labels of all rows. Every shard is read."""
        if not self._labelled:
            return None
        sealed = self._sealed
        parts = [
            part["label"]
            for part in read_rows(sealed.step_store, sealed.manifest, sealed.start, sealed.stop, ["label"])
        ]
        return as_labels(np.concatenate(parts), self.rows, f"label of {self.source}")

    def labels_of(self, start: int, stop: int) -> np.ndarray | None:
        """Returns the labels of rows [start, stop), from the shards that `read` reads for them."""
        return self._gathered(start, stop)[1] if self._labelled else None

    def read(self, start: int, stop: int) -> list[np.ndarray]:
        return [each.copy() for each in self._gathered(start, stop)[0]]

    def _gathered(self, start: int, stop: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Returns the images and labels of rows [start, stop)."""
        start, stop, _ = slice(start, stop).indices(self.rows)
        first = self._sealed.start
        images: list[np.ndarray] = []
        labels: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
        for entry in self._entries(start, stop):
            low, shard = self._shard(entry)
            wanted = slice(max(first + start - low, 0), first + stop - low)
            images += list(shard["image"][wanted])
            if self._labelled:
                labels.append(shard["label"][wanted].astype(np.int64))
        return images, np.concatenate(labels)

    def _entries(self, start: int, stop: int):
        first = self._sealed.start
        return (
            entry
            for entry in self._sealed.manifest.entries
            if start < stop and entry.start < first + stop and entry.stop > first + start
        )

    def _shard(self, entry: ManifestEntry) -> tuple[int, Columns]:
        """Returns the first index and the rows of a shard. The last shard is cached."""
        held = vars(self).get("_held")
        if held is None or held[0] != entry.number:
            sealed = self._sealed
            low, high = max(entry.start, sealed.start), min(entry.stop, sealed.stop)
            columns = ["image", "label"] if self._labelled else ["image"]
            (rows,) = read_rows(sealed.step_store, sealed.manifest, low, high, columns)
            held = self._held = (entry.number, low, rows)
        return held[1], held[2]

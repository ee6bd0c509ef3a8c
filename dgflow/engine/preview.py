"""The preview of a step: its first samples as one small PNG file in its folder, `attempts/preview.png`.

A worker writes it as soon as it has some rows of the step's first shard, because the whole shard may take an
hour. The preview is advisory: no work depends on it, and a failure is logged and never raised. Once the shard
is committed, its rows are shown instead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from dgflow.images.grids import grid_file, read_grid
from dgflow.images.thumbnails import LARGEST
from dgflow.store.identity import fingerprint
from dgflow.store.receipts import Receipt
from dgflow.store.shards import Columns
from dgflow.store.step_store import StepStore, decoded

ROWS = 64  # at most

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preview:
    """The first samples of a step.

    For latents, `images` shows the first three channels (the first one if there are fewer), scaled from their
    1st to their 99th percentile.
    """

    start: int  # index of the first sample
    images: np.ndarray  # uint8 [n, H, W, C]
    of: Literal["images", "latents"]
    inputs: str  # the digest of the step's inputs, see `inputs_digest`
    side: int  # pixels of the images' longer side before they are shrunk
    committed: bool

    @property
    def caption(self) -> str:
        """A description of the samples, such as `indices 0 to 63, not committed yet`."""
        words = [f"indices {self.start} to {self.start + len(self.images) - 1}"]
        if self.side > LARGEST:
            words.append(f"shrunk from {self.side} pixels")
        if self.of == "latents":
            words.append("channels 1 to 3 of latents: decode them for images")
        if not self.committed:
            words.append("not committed yet")
        return ", ".join(words)

    @cached_property
    def png(self) -> bytes:
        """The grid as a PNG file."""
        about = {"start": self.start, "of": self.of, "inputs": self.inputs, "side": self.side}
        return grid_file(self.images, about)


def inputs_digest(inputs: Mapping[str, str]) -> str:
    """Returns the digest of a step's inputs, as in the names of its receipts."""
    return fingerprint(dict(inputs))


def of_columns(columns: Columns, inputs: str, *, committed: bool) -> Preview | None:
    """Returns the preview of the first rows; None for rows without images and latents."""
    if "image" in columns:
        of, images = "images", columns["image"][:ROWS]
    elif "latent" in columns:
        of, images = "latents", _shown(columns["latent"][:ROWS])
    else:
        return None
    side = max(images.shape[1:3])
    return Preview(int(columns["index"][0]), images, of, inputs, side, committed)


def of_shards(step_store: StepStore, done: Mapping[int, str]) -> Preview | None:
    """Returns the preview of the lowest committed shards, verified; `done` maps their numbers to the keys of
    their receipts. None for a step without images and latents, or without shards.

    Raises CorruptObject as `StepStore.read` does.
    """
    parts: list[Columns] = []
    inputs = ""
    for number in sorted(done):
        receipt = step_store.receipt(done[number])
        data = step_store.read(receipt)
        columns = _columns(receipt, data)
        if columns is None:
            return None
        if parts and columns["index"][0] != parts[-1]["index"][-1] + 1:
            break
        parts.append(columns)
        inputs = receipt.inputs_sha256
        if sum(len(part["index"]) for part in parts) >= ROWS:
            break
    if not parts:
        return None
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return of_columns(joined, inputs, committed=True)


def _columns(receipt: Receipt, data: bytes) -> Columns | None:
    """Returns the index of a shard's rows and their images or latents; None if they have neither."""
    for column in ("image", "latent"):
        try:
            rows = decoded(receipt, data, ["index", column])
        except ValueError:  # the shard has no such column
            continue
        return {name: values[:ROWS] for name, values in rows.items()}
    return None


def keep(step_store: StepStore, preview: Preview) -> str:
    """Writes a preview into the step's folder; returns its key. Raises StoreError."""
    step_store.store.put(key := preview_key(step_store), preview.png)
    return key


def left(step_store: StepStore) -> Preview | None:
    """Returns the preview that a worker wrote; None if there is none, or if it cannot be read."""
    try:
        images, about = read_grid(step_store.store.get(preview_key(step_store)))
        fields = {name: about[name] for name in ("start", "of", "inputs", "side")}
        return Preview(images=images, committed=False, **fields)
    except FileNotFoundError:
        return None
    except Exception as error:
        _log.warning("could not read the preview of %s: %s", step_store.name, error)
        return None


def leaves(
    step_store: StepStore, inputs: Mapping[str, str], start: int, rows: int
) -> Callable[[Columns], None]:
    """Returns a function that writes the preview from the first rows of the shard [start, start + rows). A
    worker calls the function with rows before the shard is complete; it never raises."""

    def show(columns: Columns) -> None:
        try:
            index = columns["index"]
            if index[0] != start or len(index) >= rows:  # a whole shard is committed immediately
                return
            if preview := of_columns(columns, inputs_digest(inputs), committed=False):
                keep(step_store, preview)
        except Exception as error:
            _log.warning("could not write the preview of %s: %s", step_store.name, error)

    return show


def preview_key(step_store: StepStore) -> str:
    """Returns the key of the preview file."""
    return f"{step_store.name}/attempts/preview.png"


def _shown(latents_BCHW: np.ndarray) -> np.ndarray:
    """Converts latents to pictures of their first channels, uint8 [B, H, W, 3 or 1]."""
    channels = 3 if latents_BCHW.shape[1] >= 3 else 1
    values = latents_BCHW[:, :channels].astype(np.float32).transpose(0, 2, 3, 1)
    low, high = np.percentile(values, (1, 99))
    return (255 * ((values - low) / max(high - low, 1e-6)).clip(0, 1) + 0.5).astype(np.uint8)

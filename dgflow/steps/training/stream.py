"""Rows of a slice for training, streamed from storage: shards are read ahead in the background, and memory
does not grow with their number.

The rows of a batch are a pure function of (seed, step), for any number of workers. Memory holds two shards
per lane (`order`; at most 32 shards per stream, and a discriminator has a stream for each of its slices) and
two batches. Every read is verified, and a damaged shard raises an error in the step that needs it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dgflow.specs.bound import Bound, BoundRows
from dgflow.steps.training.order import Order, Rows
from dgflow.steps.training.pieces import Decoded, Piece, divided, resampled
from dgflow.steps.training.rows import Form
from dgflow.store.shards import Columns

if TYPE_CHECKING:
    from dgflow.specs.train_step import TrainStep

READERS = 8  # shards that are read concurrently
BATCHES_AHEAD = 2


class _Batch(NamedTuple):
    values: list[Tensor]  # as stored
    labels: Tensor
    index: Tensor


class Stream:
    """The rows of one slice in batches: `training` rows, and `held` rows that are held out, the last by
    index.

    This stream fills `slots` of a batch of `step.batch_size` slots; their numbers over all steps index the
    draws of `rows`. `waited` is the number of seconds that `take` has waited so far. `close` ends its
    threads; a later call starts new ones.
    """

    def __init__(
        self,
        step: TrainStep,
        inputs: Bound,
        name: str,
        *,
        num_classes: int,
        device: torch.device,
        mirror: bool = False,
        slots: np.ndarray | None = None,
    ) -> None:
        """Opens the stream of the slice in the field `name` of `step`; reads its first shard.

        Args:
            num_classes: the number of classes that labels are checked against, 0 for no check.
            slots: int64, ascending; None: all.

        Raises:
            ValueError: a slice has no rows to train on or to hold out, or no columns to train on.
            CorruptObject: as `StepStore.read`.
        """
        rows = inputs.items[name]
        assert isinstance(rows, BoundRows), name
        self.training, self.held = step.split(name)
        self.waited = 0.0
        self._step, self._rows, self._classes, self._device = step, rows, num_classes, device
        self._slots = np.arange(step.batch_size) if slots is None else slots
        self._form = Form.of(
            rows.step_store.read_shard(rows.manifest.entries[0]), mirror=mirror, source=rows.step_store.name
        )
        times = step.times_drawn(name)
        training, kept = divided(rows, self.training) if times is None else resampled(rows, times)
        self._order = Order(tuple(piece.rows for piece in training), len(self._slots), step.seed)
        self._training, self._kept = Decoded(training, self._read), Decoded(kept, self._read)
        self._ends = np.cumsum([piece.rows for piece in kept], dtype=np.int64)
        self._threads: tuple[ThreadPoolExecutor, ThreadPoolExecutor] | None = None
        self._ahead: dict[tuple[int, bytes], Future[_Batch]] = {}

    def take(self, step: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (float32 [b, C, H, W], labels int64 [b]) on the device, for these slots (of this stream) of
        a step's batch. The next steps are prepared for the same slots. A batch may be taken in parts; each
        part is prepared separately."""
        began = time.perf_counter()
        own = np.searchsorted(self._slots, slots.numpy())
        wanted = {(number, own.tobytes()): number for number in range(step, step + 1 + BATCHES_AHEAD)}
        ahead = {
            key: self._ahead.get(key) or self._assembler.submit(self._assembled, number, own)
            for key, number in wanted.items()
        }
        others = {key: batch for key, batch in self._ahead.items() if key[0] >= step}
        self._ahead = ahead = others | ahead
        batch = ahead.pop((step, own.tobytes())).result()
        self.waited += time.perf_counter() - began
        return self._finished(batch, held=False)

    def held_out_rows(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Returns as `take` does the held-out rows, counted from 0 to `held`, with the same draws at every
        use. Reads each shard once if items come in ascending order."""
        index = items.numpy()
        piece = np.searchsorted(self._ends, index, side="right")
        rows = index - self._ends[piece] + np.diff(self._ends, prepend=0)[piece]
        following = [int(piece.max()) + 1] if len(index) and piece.max() + 1 < len(self._ends) else []
        batch = self._gathered(self._kept, Rows(piece, rows), following, 2, items, held=True)
        return self._finished(batch, held=True)

    def close(self) -> None:
        """Ends the threads, and drops the shards that were read ahead."""
        if self._threads is not None:
            assembler, readers = self._threads
            assembler.shutdown(wait=False, cancel_futures=True)
            readers.shutdown(wait=True, cancel_futures=True)
            assembler.shutdown(wait=True)
        self._threads, self._ahead = None, {}
        self._training.forget()
        self._kept.forget()

    @property
    def _assembler(self) -> ThreadPoolExecutor:
        return self._started()[0]

    def _started(self) -> tuple[ThreadPoolExecutor, ThreadPoolExecutor]:
        if self._threads is None:
            self._threads = (
                ThreadPoolExecutor(1, thread_name_prefix="batches"),
                ThreadPoolExecutor(READERS, thread_name_prefix="shards"),
            )
        return self._threads

    def _assembled(self, step: int, own: np.ndarray) -> _Batch:
        order = self._order
        index = torch.from_numpy(step * self._step.batch_size + self._slots[own])
        keep = 2 * order.lanes_of(own)
        rows, following = order.batch_rows(step, own), order.ahead(step, own)
        return self._gathered(self._training, rows, following, keep, index, held=False)

    def _gathered(
        self, decoded: Decoded, rows: Rows, following: Sequence[int], keep: int, index: Tensor, *, held: bool
    ) -> _Batch:
        wanted = np.unique(rows.piece).tolist()
        pieces = decoded.get(wanted, following, keep, self._started()[1])
        variant = self._form.variant(self._step.seed, index, held=held)
        values = [
            np.empty((len(index), *self._form.shape), self._form.dtype) for _ in range(self._form.arrays)
        ]
        labels = np.empty(len(index), dtype=np.int64)
        for number in wanted:
            columns, own = pieces[number].result(), np.flatnonzero(rows.piece == number)
            row = decoded.pieces[number].located(rows.row[own])
            labels[own] = columns["label"][row]
            for each in np.unique(variant[own]).tolist():
                chosen = variant[own] == each
                for part, stored in zip(values, self._form.stored(columns, each), strict=True):
                    part[own[chosen]] = stored[row[chosen]]
        return _Batch([torch.from_numpy(part) for part in values], torch.from_numpy(labels), index)

    def _finished(self, batch: _Batch, *, held: bool) -> tuple[Tensor, Tensor]:
        values = [part.to(self._device) for part in batch.values]
        images = self._form.finished(values, self._step.seed, batch.index, held=held)
        return images, batch.labels.to(self._device)

    def _read(self, piece: Piece) -> Columns:
        step_store, first = self._rows.step_store, piece.entry.start
        rows = step_store.read_shard(piece.entry, ["label", *self._form.columns])
        own = {name: values[piece.start - first : piece.stop - first] for name, values in rows.items()}
        labels = own["label"]
        if self._classes and not ((labels >= 0) & (labels < self._classes)).all():
            raise ValueError(
                f"expected labels 0 to {self._classes - 1} in {step_store.name}, found {labels.min()} to "
                f"{labels.max()} in shard {piece.entry.number}"
            )
        return own

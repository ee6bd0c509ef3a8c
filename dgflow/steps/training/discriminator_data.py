"""Real and fake rows for a discriminator: the rows of each batch, and the held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dgflow.specs.bound import Bound
from dgflow.steps.training.fake_shares import interleaved
from dgflow.steps.training.stream import Stream

if TYPE_CHECKING:
    from dgflow.specs.train_step import TrainStep


class LabelledRows(NamedTuple):
    """Rows of both kinds."""

    images: Tensor  # float32 [b, C, H, W], on the device
    labels: Tensor  # int64 [b], classes, on the device
    is_real: Tensor  # bool [b], on the CPU


class RealAndFake:
    """The rows of a discriminator's real and fake slices: as many real rows as fake ones, and from each of
    several fake slices its share.

    Slots of a batch alternate between real and fake, and the fake slices are spread evenly, so that every
    worker's share is balanced too. A held-out item is one of a pair at one noise level: even items are real,
    odd ones fake.

    Args:
        names: of the real slice and of the fake ones, as `step` reads them.
        fakes: rows per batch from each fake slice, half a batch in all.
        held_out: the number of held-out pairs whose fake is from each fake slice.
        num_classes: as for `Stream`.

    Raises:
        ValueError, CorruptObject: as `Stream` does.
    """

    def __init__(
        self,
        step: TrainStep,
        inputs: Bound,
        *,
        names: Sequence[str],
        fakes: Sequence[int],
        held_out: Sequence[int],
        num_classes: int,
        device: torch.device,
    ) -> None:
        self._kind_of_slot = np.zeros(step.batch_size, dtype=np.int64)  # 0: real, 1 and above: fake
        self._kind_of_slot[1::2] = 1 + interleaved(fakes)
        self.streams = tuple(
            Stream(
                step,
                inputs,
                name,
                num_classes=num_classes,
                device=device,
                slots=np.flatnonzero(self._kind_of_slot == kind),
            )
            for kind, name in enumerate(names)
        )
        self._batch_size = step.batch_size
        # For each held-out pair: the kind of its fake, and its row among those of that kind.
        kinds = 1 + interleaved(held_out)
        self._fake_kind, self._fake_row = torch.from_numpy(kinds), torch.from_numpy(_counted(kinds))

    @property
    def real(self) -> Stream:
        return self.streams[0]

    def index(self, slots: Tensor, step: int) -> Tensor:
        """Returns int64 [b]: the uses of rows, counted over all steps, by which their draws are indexed."""
        return step * self._batch_size + slots

    def batch(self, slots: Tensor, step: int) -> LabelledRows:
        """Returns the rows of these slots of a step's batch."""
        kind = torch.from_numpy(self._kind_of_slot)[slots]
        return _together(
            kind, [rows.take(step, slots[kind == number]) for number, rows in enumerate(self.streams)]
        )

    def held_out(self, items: Tensor, levels: int) -> LabelledRows:
        """Returns the rows of these held-out items, each pair of rows at `levels` noise levels: items 2k and
        2k + 1 are pair k // levels at level k % levels."""
        is_real, pair = items % 2 == 0, items // 2 // levels
        kind = torch.where(is_real, 0, self._fake_kind[pair])
        row = torch.where(is_real, pair, self._fake_row[pair])
        return _together(
            kind, [rows.held_out_rows(row[kind == number]) for number, rows in enumerate(self.streams)]
        )


def _counted(kinds: np.ndarray) -> np.ndarray:
    """Returns for each entry the number of earlier entries of the same kind."""
    rows = np.empty_like(kinds)
    for kind in np.unique(kinds):
        own = np.flatnonzero(kinds == kind)
        rows[own] = np.arange(len(own))
    return rows


def _together(kind: Tensor, parts: Sequence[tuple[Tensor, Tensor]]) -> LabelledRows:
    """Returns images and labels of all kinds, in the order of `kind`."""
    index = torch.empty_like(kind)
    index[kind.argsort(stable=True)] = torch.arange(len(kind))
    images, labels = (torch.cat(columns) for columns in zip(*parts, strict=True))
    index = index.to(images.device)
    return LabelledRows(images[index], labels[index], kind == 0)

"""Real and fake rows for a discriminator: which rows are in a batch, and which pairs are held out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from dgflow.specs.bound import Bound
from dgflow.steps.training.stream import Stream

if TYPE_CHECKING:
    from dgflow.specs.train_step import TrainStep


class LabelledRows(NamedTuple):
    """Rows of both kinds."""

    images: Tensor  # float32 [b, C, H, W], on the device
    labels: Tensor  # int64 [b], classes, on the device
    is_real: Tensor  # bool [b], on the CPU


class RealAndFake:
    """The rows of the fields `real` and `fake` of a step, in equal numbers.

    Slots of a batch alternate real and fake, so that every worker's share is balanced too. A held-out item is
    one of a pair at one noise level: even items are real, odd ones fake.

    Args:
        num_classes: as for `Stream`.

    Raises:
        ValueError, CorruptObject: as `Stream`.
    """

    def __init__(self, step: TrainStep, inputs: Bound, *, num_classes: int, device: torch.device) -> None:
        self.real, self.fake = (
            Stream(step, inputs, name, num_classes=num_classes, device=device, first=first, every=2)
            for first, name in enumerate(("real", "fake"))
        )
        self._batch_size = step.batch_size

    @property
    def streams(self) -> tuple[Stream, Stream]:
        return self.real, self.fake

    def index(self, slots: Tensor, step: int) -> Tensor:
        """int64 [b]: the uses of rows, counted over all steps, by which their draws are indexed."""
        return step * self._batch_size + slots

    def batch(self, slots: Tensor, step: int) -> LabelledRows:
        """The rows of these slots of a step's batch."""
        is_real = slots % 2 == 0
        return _together(is_real, self.real.take(step, slots[is_real]), self.fake.take(step, slots[~is_real]))

    def held_out(self, items: Tensor, levels: int) -> LabelledRows:
        """The rows of these held-out items, each pair of rows at `levels` noise levels: items 2k and 2k + 1
        are pair k // levels at level k % levels."""
        is_real, row = items % 2 == 0, items // 2 // levels
        return _together(is_real, self.real.kept_apart(row[is_real]), self.fake.kept_apart(row[~is_real]))


def _together(is_real: Tensor, real: tuple[Tensor, Tensor], fake: tuple[Tensor, Tensor]) -> LabelledRows:
    """Images and labels of both kinds, in the order of `is_real`."""
    index = torch.where(is_real, is_real.cumsum(0) - 1, (~is_real).cumsum(0) - 1 + is_real.sum())
    index = index.to(real[0].device)
    return LabelledRows(torch.cat([real[0], fake[0]])[index], torch.cat([real[1], fake[1]])[index], is_real)

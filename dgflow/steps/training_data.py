"""Images in memory for training, and which of them a step of training sees."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from dgflow.store.shards import Columns


@dataclass(frozen=True)
class ImageSet:
    """Images [N, C, H, W] uint8 with labels [N]; the last `held_out` share by index is kept apart."""

    images: Tensor
    labels: Tensor
    held_out: float

    @classmethod
    def of(cls, rows: Columns, held_out: float, *, num_classes: int, source: str) -> ImageSet:
        """From decoded shards.

        Raises:
            ValueError: a label outside [0, num_classes), or fewer images than can be split.
        """
        labels = torch.from_numpy(rows["label"])
        if num_classes and not bool(((labels >= 0) & (labels < num_classes)).all()):
            raise ValueError(f"expected labels 0 to {num_classes - 1} in {source}, found {int(labels.min())} to {int(labels.max())}")
        images = torch.from_numpy(rows["image"]).permute(0, 3, 1, 2).contiguous()
        made = cls(images, labels, held_out)
        if made.training < 1 or (held_out and made.held < 1):
            raise ValueError(
                f"expected enough images in {source} to hold out a share of {held_out}, found {len(images)}; take a larger slice"
            )
        return made

    @property
    def held(self) -> int:
        return round(len(self.images) * self.held_out)

    @property
    def training(self) -> int:
        return len(self.images) - self.held

    def take(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """(images float32 [b, C, H, W] in [-1, 1], labels int64 [b])."""
        return scaled(self.images[items]), self.labels[items]

    def drawn(self, seed: int, positions: Tensor) -> Tensor:
        """The training items at `positions` of an endless stream that passes over all of them, each pass in a new order."""
        passes, places = positions // self.training, positions % self.training
        items = torch.empty_like(places)
        for number in passes.unique().tolist():
            chosen = passes == number
            items[chosen] = _order(seed, number, self.training)[places[chosen]]
        return items

    def kept_apart(self, items: Tensor) -> Tensor:
        """Indices of held-out images; `items` count from 0 to `held`."""
        return items + self.training


def scaled(images: Tensor) -> Tensor:
    """uint8 to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


@lru_cache(maxsize=4)
def _order(seed: int, number: int, size: int) -> Tensor:
    # Philox's raw bits are fixed by its definition, so the order is the same on every machine and version.
    keys = np.random.Philox(key=[seed, number]).random_raw(size)
    return torch.from_numpy(np.argsort(keys, kind="stable"))

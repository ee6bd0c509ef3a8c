"""Samples of a step as arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dgflow.files.shard_ranges import read_range
from dgflow.store.receipts import Receipt
from dgflow.store.shards import Columns
from dgflow.store.step_store import StepStore

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """Consecutive samples: the columns of their step as NumPy arrays, whose first dimension is the samples.

    `columns` has `index` int64; `image` uint8 [n, H, W, C] or `latent` float16 [n, C, H, W]; of most steps
    `label` int64, -1 without a class; `log_ratio` float32 of samples that a discriminator guided; and what
    else the step makes, such as `point` or `features`.
    """

    columns: Columns

    def __len__(self) -> int:
        return len(self.columns["index"])

    def __getitem__(self, name: str) -> np.ndarray:
        """A column. Raises ValueError, with those there are."""
        if name not in self.columns:
            raise ValueError(f"expected a column of {', '.join(self.columns)}, found {name!r}")
        return self.columns[name]

    @property
    def index(self) -> np.ndarray:
        return self["index"]

    @property
    def images(self) -> np.ndarray:
        """uint8 [n, H, W, C]."""
        return self["image"]

    @property
    def latents(self) -> np.ndarray:
        """float16 [n, C, H, W]."""
        return self["latent"]

    @property
    def labels(self) -> np.ndarray:
        """int64 [n], -1 for no class."""
        return self["label"]

    @property
    def log_ratio(self) -> np.ndarray:
        """float32 [n]: the logit of the discriminator at the last step that it guided."""
        return self["log_ratio"]

    def torch(self, name: str | None = None) -> Tensor:
        """A column as a tensor on the CPU; by default images as float32 [n, C, H, W] in [-1, 1], or latents
        as float32, as networks take them."""
        import torch

        if name is not None:
            return torch.from_numpy(self[name])
        if "latent" in self.columns:
            return torch.from_numpy(self.latents).float()
        return as_network_input(self.images)

    def __repr__(self) -> str:
        columns = ", ".join(
            f"{name} {values.dtype} {list(values.shape)}" for name, values in self.columns.items()
        )
        return f"<Samples [{self.index[0]}:{self.index[-1] + 1}]: {columns}>"


def as_network_input(images: np.ndarray) -> Tensor:
    """Images uint8 [n, H, W, C] as networks take them: float32 [n, C, H, W] in [-1, 1]."""
    import torch

    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


class SampleStream:
    """The committed samples of a step, which may still be growing: `samples[100:116]` reads these alone.

    `len(samples)` counts the samples from the first one on without a gap.
    """

    def __init__(self, step_store: StepStore, receipts: Callable[[], dict[int, Receipt]]) -> None:
        self._step_store = step_store
        self._receipts = receipts

    @property
    def shards(self) -> list[Receipt]:
        """The receipts of the committed shards, by number."""
        return [receipt for _, receipt in sorted(self._receipts().items())]

    def __len__(self) -> int:
        length = 0
        for receipt in self.shards:
            if receipt.start != length:
                break
            length = receipt.stop or length
        return length

    def __getitem__(self, key: slice | int) -> Samples:
        """The samples of a range, all by default; of one index, one sample.

        Raises:
            ValueError: some of them are not committed.
            CorruptObject: a shard is damaged.
        """
        return self.read(key)

    def read(self, key: slice | int, columns: list[str] | None = None) -> Samples:
        """As `samples[key]`, of these columns and `index` alone."""
        start, stop = self._range(key)
        names = None if columns is None else list(dict.fromkeys(["index", *columns]))
        parts = [
            read_range(self._step_store, shard, max(start, shard.start), min(stop, shard.stop), names)
            for shard in self.shards
            if shard.start is not None
            and shard.stop is not None
            and shard.start < stop
            and shard.stop > start
        ]
        if sum(len(part["index"]) for part in parts) != stop - start:
            raise ValueError(
                f"expected committed samples [{start}:{stop}] of {self._step_store.name}, found "
                f"{self._there()}"
            )
        return Samples({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})

    def __iter__(self) -> Iterator[Samples]:
        """The samples, a shard at a time."""
        for shard in self.shards:
            yield self[shard.start or 0 : shard.stop]

    def _range(self, key: slice | int) -> tuple[int, int]:
        if isinstance(key, int):
            key = slice(key, key + 1)
        start, stop = key.start or 0, len(self) if key.stop is None else key.stop
        if key.step is not None or not 0 <= start < stop:
            raise ValueError(
                "expected samples counted from the first one, as in samples[100:116], found "
                f"[{key.start}:{key.stop}{f':{key.step}' if key.step is not None else ''}] of {len(self)}"
            )
        return start, stop

    def _there(self) -> str:
        ranges: list[list[int]] = []
        for shard in self.shards:
            if ranges and ranges[-1][1] == shard.start:
                ranges[-1][1] = shard.stop or 0
            else:
                ranges.append([shard.start or 0, shard.stop or 0])
        return ", ".join(f"[{start}:{stop}]" for start, stop in ranges) or "none yet"

    def __repr__(self) -> str:
        return f"<samples of {self._step_store.name}: {self._there()}>"

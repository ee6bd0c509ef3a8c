"""Read the samples of a step as arrays."""

from __future__ import annotations

import io
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dgflow.engine.preview import ROWS
from dgflow.files.shard_ranges import read_range
from dgflow.store.receipts import Receipt
from dgflow.store.shards import Columns
from dgflow.store.step_store import StepStore

if TYPE_CHECKING:
    from pandas import DataFrame
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """Consecutive samples: the columns of their step as NumPy arrays, with samples as the first dimension.

    `columns` has `index` int64; `image` uint8 [n, H, W, C] or `latent` float16 [n, C, H, W]; for most steps
    `label` int64, -1 without a class; `log_ratio` float32 for samples guided by a discriminator; and further
    columns of the step, such as `point` or `features`.
    """

    columns: Columns

    def __len__(self) -> int:
        return len(self.columns["index"])

    def __getitem__(self, name: str) -> np.ndarray:
        """Return a column. Raises ValueError, which lists the columns."""
        if name not in self.columns:
            raise ValueError(f"expected a column of {', '.join(self.columns)}, found {name!r}")
        return self.columns[name]

    @property
    def index(self) -> np.ndarray:
        return self["index"]

    @property
    def images(self) -> np.ndarray:
        """Images, uint8 [n, H, W, C]."""
        return self["image"]

    @property
    def latents(self) -> np.ndarray:
        """Latents, float16 [n, C, H, W]."""
        return self["latent"]

    @property
    def labels(self) -> np.ndarray:
        """Class labels, int64 [n]; -1 for no class."""
        return self["label"]

    @property
    def log_ratio(self) -> np.ndarray:
        """The discriminator's logit at the last step that it guided, float32 [n]."""
        return self["log_ratio"]

    def torch(self, name: str | None = None) -> Tensor:
        """Return a column as a tensor on the CPU; by default images as float32 [n, C, H, W] in [-1, 1], or
        latents as float32, ready for networks.
        """
        import torch

        if name is not None:
            return torch.from_numpy(self[name])
        if "latent" in self.columns:
            return torch.from_numpy(self.latents).float()
        return as_network_input(self.images)

    def frame(self) -> DataFrame:
        """One row per sample, with its scalar columns, such as `label` and `log_ratio`. Needs pandas."""
        from dgflow.client.frames import frame_of_samples

        return frame_of_samples(self.columns)

    def grid(self, columns: int = 8, scale: int | None = None) -> Image:
        """The images in a grid, as a PIL image. Large images are reduced to 64 pixels. The grid is magnified
        by the integer `scale`, by default to a width of about 500 pixels. Notebooks show this grid.
        """
        return image_grid(self.images, columns, scale)

    def _repr_png_(self) -> bytes | None:
        if "image" not in self.columns or not len(self):
            return None
        out = io.BytesIO()
        image_grid(self.images[:ROWS]).save(out, "PNG")
        return out.getvalue()

    def __repr__(self) -> str:
        columns = ", ".join(
            f"{name} {values.dtype} {list(values.shape)}" for name, values in self.columns.items()
        )
        return f"<Samples [{self.index[0]}:{self.index[-1] + 1}]: {columns}>"


def image_grid(images: np.ndarray | Tensor, columns: int = 8, scale: int | None = None) -> Image:
    """Arrange images in a grid, as a PIL image; see `Samples.grid`.

    `images` is an array uint8 [n, H, W, C], or a float tensor [n, C, H, W] in [-1, 1], such as denoised
    images. Raises ValueError for other arrays.
    """
    from PIL import Image

    from dgflow.images.grids import grid
    from dgflow.report.images import SHOWN_WIDTH
    from dgflow.steps.pixels import pixels

    fits = images.dtype == np.uint8 if isinstance(images, np.ndarray) else images.is_floating_point()
    if not fits or images.ndim != 4 or not len(images):
        raise ValueError(
            "expected images uint8 [n, H, W, C] as NumPy array, or a tensor float [n, C, H, W], found "
            f"{images.dtype} {list(images.shape)}"
        )
    if not isinstance(images, np.ndarray):
        images = pixels(images.detach())
    sheet = Image.fromarray(grid(images, max(1, min(columns, len(images)))))
    factor = max(1, SHOWN_WIDTH // sheet.width) if scale is None else scale
    return sheet.resize((factor * sheet.width, factor * sheet.height), Image.Resampling.NEAREST)


def as_network_input(images: np.ndarray) -> Tensor:
    """Convert images uint8 [n, H, W, C] to network input, float32 [n, C, H, W] in [-1, 1]."""
    import torch

    from dgflow.steps.training.rows import scaled

    return scaled(torch.from_numpy(images).permute(0, 3, 1, 2))


class SampleStream:
    """The committed samples of a step; `samples[100:116]` reads only that range.

    `len(samples)` counts the samples from the first one up to the first gap. Each access lists the shards
    again, so it includes shards that an active run has committed meanwhile.
    """

    def __init__(self, step_store: StepStore, receipts: Callable[[], dict[int, Receipt]]) -> None:
        self._step_store = step_store
        self._receipts = receipts

    @property
    def shards(self) -> list[Receipt]:
        """The receipts of the committed shards, by number."""
        return [receipt for _, receipt in sorted(self._receipts().items())]

    def __len__(self) -> int:
        return _length(self.shards)

    def __getitem__(self, key: slice | int) -> Samples:
        """Read a range of samples, all by default, or the sample at one index.

        Raises:
            ValueError: some of the samples are not committed.
            CorruptObject: a shard is damaged.
        """
        return self.read(key)

    def read(self, key: slice | int = slice(None), columns: Sequence[str] | None = None) -> Samples:
        """Read `samples[key]` with only these columns and `index`.

        Raises:
            ValueError: as `samples[key]`, and for a column that the step does not have.
        """
        if isinstance(columns, str):
            columns = [columns]
        shards = self.shards
        return self._read(shards, *_range(key, _length(shards)), columns)

    def _read(
        self, shards: Sequence[Receipt], start: int, stop: int, columns: Sequence[str] | None = None
    ) -> Samples:
        names = None if columns is None else list(dict.fromkeys(["index", *columns]))
        ranges = [(shard, max(start, shard.start or 0), min(stop, shard.stop or 0)) for shard in shards]
        ranges = [(shard, first, last) for shard, first, last in ranges if first < last]
        if sum(last - first for _, first, last in ranges) != stop - start:
            raise ValueError(
                f"expected committed samples [{start}:{stop}] of {self._step_store.name}, found "
                f"{_listed(shards)}"
            )
        parts = [read_range(self._step_store, shard, first, last, names) for shard, first, last in ranges]
        return Samples({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})

    def frame(self) -> DataFrame:
        """One row per sample, with its scalar columns, without reading images. Needs pandas."""
        first = self[0].columns
        return self.read(columns=[name for name, values in first.items() if values.ndim == 1]).frame()

    def __iter__(self) -> Iterator[Samples]:
        """Yield the samples shard by shard."""
        for shard in self.shards:
            yield self._read([shard], shard.start or 0, shard.stop or 0)

    def __repr__(self) -> str:
        return f"<samples of {self._step_store.name}: {_listed(self.shards)}>"


def _length(shards: Sequence[Receipt]) -> int:
    """The number of samples from the first one up to the first gap."""
    length = 0
    for shard in shards:
        if shard.start != length:
            break
        length = shard.stop or length
    return length


def _range(key: slice | int, length: int) -> tuple[int, int]:
    """The start and stop of a key. Raises ValueError for negative indices, empty ranges and steps."""
    if not isinstance(key, slice):
        key = slice(operator.index(key), operator.index(key) + 1)
    start = 0 if key.start is None else operator.index(key.start)
    stop = length if key.stop is None else operator.index(key.stop)
    if key.step is not None or not 0 <= start < stop:
        written = ":".join("" if each is None else str(each) for each in (key.start, key.stop))
        written += "" if key.step is None else f":{key.step}"
        raise ValueError(
            f"expected samples counted from the first one, as in samples[100:116], found [{written}] of "
            f"{length:,} samples"
        )
    return start, stop


def _listed(shards: Sequence[Receipt]) -> str:
    """Describe the committed ranges."""
    ranges: list[list[int]] = []
    for shard in shards:
        if ranges and ranges[-1][1] == shard.start:
            ranges[-1][1] = shard.stop or 0
        else:
            ranges.append([shard.start or 0, shard.stop or 0])
    return ", ".join(f"[{start}:{stop}]" for start, stop in ranges) or "none yet"

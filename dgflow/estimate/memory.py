"""The memory of a GPU that a training takes: weights, gradients and moments, and at its peak a batch's
activations, counted on networks without memory."""

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

CONTEXT_BYTES = 1e9  # of CUDA, cuDNN's workspaces and the allocator's slack: an assumption
MOMENTS = 2  # tensors that Adam keeps for every parameter, beside the number of its steps
NARROW = 0.75  # of the bytes of activations in float32, with bfloat16: norms keep theirs; an assumption


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one GPU: `fixed` whatever the batch, and `row` for each of its rows on that GPU."""

    fixed: float
    row: float
    batch: int

    def of(self, gpus: int) -> float:
        """Bytes of each of so many GPUs that share a batch, in one piece."""
        return self.fixed + math.ceil(self.batch / gpus) * self.row

    def gpus(self, memory: float) -> int | None:
        """The least number of GPUs of so many bytes that hold a batch in one piece; None where no row
        fits."""
        rows = int((memory - self.fixed) // self.row)
        return None if rows < 1 else math.ceil(self.batch / rows)

    def parts(self, memory: float) -> int | None:
        """The parts into which one such GPU cuts a batch, a power of two; None where no row fits."""
        gpus = self.gpus(memory)
        return None if gpus is None else min(self.batch, 2 ** math.ceil(math.log2(gpus)))


def training_memory(step: TrainStep, network: nn.Module) -> TrainingMemory:
    """The memory of a training, whose network is on the meta device: that of a whole batch, and by half of
    one that of each row.

    Raises ValueError for a network that cannot run there.
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
    """The bytes of tensors that were made and are alive, now and at most."""

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

"""Micro-batches: divides a worker's share of a batch into as many parts as its memory requires.

A batch is a pure function of (seed, step, slots), so a part is what an additional worker would compute. The
gradients of the parts, weighted by their rows, add up to the gradient of the share except for rounding (and
dropout). The number of parts grows when memory runs out, and is not part of identity.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dgflow.diffusion.device_errors import is_out_of_memory
from dgflow.specs.training_task import TrainingTask

Made = TypeVar("Made")

log = logging.getLogger(__name__)


class MicroBatches:
    """Forward and backward passes of this worker's slots, in `parts` parts.

    A single worker that runs out of memory doubles the parts and repeats the step. Several workers
    synchronise within backward, so none of them can repeat it alone. Each determines its parts beforehand, by
    `probe`; running out of memory later ends the worker.
    """

    def __init__(self, task: TrainingTask, network: nn.Module, of: str, *, alone: bool) -> None:
        self.parts = 1
        self._task, self._network, self._of, self._alone = task, network, of, alone

    def backward(self, slots: Tensor, step: int, weight: float) -> Tensor:
        """Computes the gradients of `weight` times the mean loss of the slots; returns that value.

        Raises:
            ValueError: memory does not suffice for one row.
        """
        if not self._alone:
            return self._attempt(slots, step, weight, meet=True)
        return self._fitting(slots, lambda: self._attempt(slots, step, weight, meet=True))

    def probe(self, slots: Tensor, step: int, reserve: int) -> None:
        """Determines the number of parts without synchronising with other workers, and leaves no gradients.
        `reserve` bytes are allocated meanwhile, in place of what the optimiser's first step will allocate."""

        def attempt() -> None:
            held = torch.empty(reserve, dtype=torch.uint8, device=self._task.device)
            self._attempt(slots, step, 1.0, meet=False)
            del held

        self._fitting(slots, attempt)
        self._task.optimizer.zero_grad(set_to_none=True)

    def _fitting(self, slots: Tensor, attempt: Callable[[], Made]) -> Made:
        """Returns `attempt()`, repeated with twice as many parts while memory runs out."""
        while True:
            try:
                return attempt()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self._double(slots, error)
            torch.cuda.empty_cache()  # not in the handler, where the error still refers to the step's tensors

    def _attempt(self, slots: Tensor, step: int, weight: float, *, meet: bool) -> Tensor:
        self._task.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64, device=self._task.device)
        parts = slots.tensor_split(self.parts)
        apart: Callable[[], Any] = getattr(self._network, "no_sync", nullcontext)
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            with nullcontext() if meet and last else apart():
                loss = self._task.loss(self._network, part, step).mean() * (weight * len(part) / len(slots))
                loss.backward()
            total += loss.detach().double()
        return total

    def _double(self, slots: Tensor, error: RuntimeError) -> None:
        if self.parts >= len(slots):
            raise ValueError(
                f"{self._of}: expected GPU memory for one row of a batch, found too little ({error}); use "
                'GPUs with more memory, or train with precision="bfloat16"'
            ) from error
        self.parts = min(2 * self.parts, len(slots))
        log.warning(
            "%s: out of GPU memory; this worker now processes its %d rows of a batch in %d parts, with the "
            "same gradient except for rounding",
            self._of,
            len(slots),
            self.parts,
        )

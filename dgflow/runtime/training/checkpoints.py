"""The state of a training in the root: weights of every epoch, and checkpoints from which a training resumes.

    epochs/00003-...       the weights after epoch 3, which are kept
    checkpoints/00003-...  everything that the next step depends on, at the end of epoch 3
    steps/00400-...        the same within an epoch, after 400 steps counted over all epochs

Checkpoints are temporary: the newest two of each kind are kept, and those within an epoch until it ends. The
name of a checkpoint contains a digest of the weights of the last complete epoch, and within an epoch also of
the number of workers. So a training resumes only from a checkpoint that belongs to the committed epochs, even
if several drivers have trained the step.

Two trainings can commit an epoch with different bits, for example on GPUs. Then the first commit wins, and
the other training stops (`finish`). The checkpoint of an epoch is committed before its weights, so that no
other training can intervene.

A checkpoint whose bytes do not match its receipt is never used.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from dgflow.runtime.environment import versions
from dgflow.runtime.training.averages import Averages
from dgflow.store.receipts import CorruptObject, Receipt
from dgflow.store.shards import rows_sha256
from dgflow.store.step_store import StepStore
from dgflow.weights.tensors import load_weights, save_weights

KEPT = 2  # checkpoints of each kind: a failing disk may damage the newest
ENDS, WITHIN = "checkpoints", "steps"  # folders of checkpoints at the ends of epochs, and within epochs
# Inputs of a checkpoint, with those of the training
WEIGHTS, WORKERS = "weights of the last epoch", "workers"

log = logging.getLogger(__name__)


def commit(
    step_store: StepStore,
    folder: str,
    number: int,
    tensors: Mapping[str, Tensor],
    inputs: Mapping[str, str],
    seconds: float,
    metrics: Mapping[str, Any],
    device: torch.device,
) -> Receipt:
    """Commits tensors as a part, as `StepStore.commit` does."""
    return step_store.commit(
        folder,
        number,
        save_weights(tensors),
        suffix=".safetensors",
        rows_sha256=digest(tensors),
        inputs=inputs,
        seconds=seconds,
        device=str(device),
        versions=versions(),
        metrics=metrics,
    )


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Returns the digest of tensors on the CPU, which is the `rows_sha256` of their receipt."""
    return rows_sha256({name: value.numpy() for name, value in tensors.items()})


def state(trained: nn.Module, optimizer: torch.optim.Optimizer, averages: Averages) -> dict[str, Tensor]:
    """Returns everything that the next step depends on, as flat named tensors: copies on the CPU."""
    tensors = {f"trained.{name}": value for name, value in trained.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in averages.values.items()}
    for number, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in slots.items()}
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}


def restore(
    trained: nn.Module, optimizer: torch.optim.Optimizer, averages: Averages, tensors: Mapping[str, Tensor]
) -> None:
    """Loads tensors of `state` into the network, the optimiser and the averages."""
    weights = {
        name.removeprefix("trained."): tensors[name] for name in tensors if name.startswith("trained.")
    }
    trained.load_state_dict(weights)
    for name, value in averages.values.items():
        value.copy_(tensors[f"ema.{name}"])
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, slot = name.split(".", 2)
            slots.setdefault(int(number), {})[slot] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": slots})


@dataclass(frozen=True)
class Start:
    """The state from which a training resumes.

    Attributes:
        steps: completed steps, counted over all epochs.
        tensors: the tensors of `state`; None for the beginning of a training.
        seconds: duration of the steps of the unfinished epoch.
    """

    steps: int = 0
    tensors: dict[str, Tensor] | None = None
    seconds: float = 0.0


class Checkpoints:
    """The checkpoints of one training; used only by the process that writes them."""

    def __init__(self, step_store: StepStore, inputs: Mapping[str, str], steps_per_epoch: int) -> None:
        self._step_store, self._steps_per_epoch = step_store, steps_per_epoch
        self._inputs = dict(inputs)
        self._weights = ""  # digest of the last complete epoch's weights
        self._keys: dict[str, list[str]] = {ENDS: [], WITHIN: []}  # of receipts, oldest first

    def newest(self, epochs: int) -> Start:
        """Returns the newest readable checkpoint that follows the committed epochs. `epochs` is the number of
        committed epochs before the first gap: an epoch that is missing in the middle is trained again.

        Removes unreadable checkpoints, so that new ones can take their names, and checkpoints of trainings
        that lost the commit of an epoch. Takes two listings, and reads the receipts of the listed
        checkpoints.
        """
        self._keys = {ENDS: [], WITHIN: []}
        candidates: list[tuple[int, str, str, Receipt]] = []  # steps, folder, key, receipt
        for folder, steps in ((ENDS, self._steps_per_epoch), (WITHIN, 1)):
            for number, keys in self._step_store.committed(folder).items():
                if number * steps < (epochs + 1) * self._steps_per_epoch:
                    receipts = ((key, self._receipt(key)) for key in keys.values())
                    candidates += [(number * steps, folder, key, each) for key, each in receipts if each]
        start = Start()
        for steps, folder, key, receipt in sorted(
            candidates, key=lambda each: (each[0], each[1]), reverse=True
        ):
            if not self._belongs(receipt, steps // self._steps_per_epoch):
                continue
            if start.tensors is None:
                if (tensors := self._read(key, receipt)) is None:
                    continue
                start = Start(steps, tensors, receipt.seconds)
            self._keys[folder].insert(0, key)
        if epochs and start.tensors is None:
            log.warning(
                "%s: %d epochs are committed, but no checkpoint is left; training starts from the beginning",
                self._step_store.name,
                epochs,
            )
        done = start.steps // self._steps_per_epoch
        self._weights = self._committed_weights(done) or ""
        self._forget(WITHIN, KEPT if start.steps % self._steps_per_epoch else 0)
        self._forget(ENDS, KEPT)  # an earlier writer may have died before it removed them
        return start

    def save(
        self, steps: int, tensors: Mapping[str, Tensor], workers: int, seconds: float, device: torch.device
    ) -> None:
        """Commits the state within an epoch, after `steps` steps counted over all epochs."""
        names = {WEIGHTS: self._weights, WORKERS: str(workers)}
        self._commit(WITHIN, steps, tensors, names, workers, seconds, device)
        self._forget(WITHIN, KEPT)

    def finish(
        self,
        epoch: int,
        weights: Mapping[str, Tensor],
        tensors: Mapping[str, Tensor],
        seconds: float,
        metrics: Mapping[str, Any],
        device: torch.device,
    ) -> bool:
        """Commits the state at the end of an epoch, and its weights; returns True if the training may
        continue.

        It may not continue if another training has committed different weights of this epoch, because later
        epochs must follow from the committed weights. It continues if the checkpoint of the committed weights
        is lost, because then no training can resume from them.
        """
        workers, own_digest = metrics["workers"], digest(weights)
        self._commit(ENDS, epoch, tensors, {WEIGHTS: own_digest}, workers, 0.0, device)
        receipt = commit(self._step_store, "epochs", epoch, weights, self._inputs, seconds, metrics, device)
        self._weights = receipt.rows_sha256
        if receipt.rows_sha256 != own_digest:
            self._step_store.discard(self._keys[ENDS].pop())
            if self._others_since(epoch):
                return False
            log.warning(
                "%s: epoch %d is committed with other weights, whose checkpoint is lost; later epochs follow "
                "from the weights of this training",
                self._step_store.name,
                epoch,
            )
            self._commit(ENDS, epoch, tensors, {WEIGHTS: receipt.rows_sha256}, workers, 0.0, device)
        self._forget(WITHIN, 0)
        self._forget(ENDS, KEPT)
        return True

    def _commit(
        self,
        folder: str,
        number: int,
        tensors: Mapping[str, Tensor],
        names: Mapping[str, str],
        workers: int,
        seconds: float,
        device: torch.device,
    ) -> None:
        inputs = self._inputs | dict(names)
        commit(self._step_store, folder, number, tensors, inputs, seconds, {"workers": workers}, device)
        self._keys[folder].append(self._step_store.key(folder, number, inputs))

    def _forget(self, folder: str, kept: int) -> None:
        """Removes all but the newest `kept` checkpoints of a folder."""
        keys = self._keys[folder]
        while len(keys) > kept:
            self._step_store.discard(keys.pop(0))

    def _belongs(self, receipt: Receipt, epoch: int) -> bool:
        """True if a checkpoint has the inputs of this training and follows the committed weights of `epoch`;
        removes a checkpoint that follows different weights. Receipts of earlier versions do not name the
        weights, and such a checkpoint belongs."""
        inputs = {name: value for name, value in receipt.inputs.items() if name not in (WEIGHTS, WORKERS)}
        if inputs != self._inputs:
            return False
        named, committed = receipt.inputs.get(WEIGHTS), self._committed_weights(epoch)
        if named is None or committed is None or named == committed:
            return True
        self._step_store.discard(self._step_store.key(*_part(receipt), receipt.inputs))
        return False

    def _committed_weights(self, epoch: int) -> str | None:
        """Returns the digest of the committed weights of an epoch; empty for epoch 0, None if the receipt
        cannot be read."""
        if not epoch:
            return ""
        try:
            key = self._step_store.key("epochs", epoch, self._inputs)
            return self._step_store.receipt(key).rows_sha256
        except (CorruptObject, FileNotFoundError):
            return None

    def _others_since(self, epoch: int) -> bool:
        """True if another training could resume from a checkpoint of epoch `epoch` or later."""
        epochs = unbroken(self._step_store.done("epochs", self._inputs))
        return any(
            (receipt := self._receipt(key)) is not None and self._belongs(receipt, number)
            for number, keys in self._step_store.committed(ENDS).items()
            if epoch <= number <= epochs
            for key in keys.values()
        )

    def _receipt(self, key: str) -> Receipt | None:
        try:
            return self._step_store.receipt(key)
        except FileNotFoundError:
            return None
        except CorruptObject as error:
            return self._passed_over(key, error)

    def _read(self, key: str, receipt: Receipt) -> dict[str, Tensor] | None:
        try:
            return load_weights(self._step_store.read(receipt))
        except (CorruptObject, FileNotFoundError) as error:
            return self._passed_over(key, error)

    def _passed_over(self, key: str, error: Exception) -> None:
        name = key.removeprefix(f"{self._step_store.name}/")
        log.warning("the checkpoint %s cannot be used, trying the one before: %s", name, error)
        self._step_store.discard(key)


def _part(receipt: Receipt) -> tuple[str, int]:
    """Returns the folder and number of the part that a receipt commits."""
    return receipt.part.partition("/")[0], receipt.number


def unbroken(epochs: Collection[int]) -> int:
    """Returns the number of consecutive epochs from the first."""
    return next(number for number in count() if number + 1 not in epochs)

"""A batch that does not fit into a GPU's memory is trained in parts, with the gradient of the whole."""

import pytest
import torch
from inprocess import complete
from tiny import discriminator, score, write_images

from dgflow.diffusion.batches import PATIENCE, Batches
from dgflow.diffusion.device_errors import is_out_of_memory
from dgflow.engine.root import Root
from dgflow.runtime.training.loop import train
from dgflow.runtime.training.micro_batches import MicroBatches
from dgflow.store.open import open_store
from dgflow.weights.tensors import load_weights


def limited(network, most: int, sizes: list[int]) -> None:
    """Stands for a GPU with memory for `most` rows of a network."""

    def check(network, given) -> None:
        if network.training:
            sizes.append(len(given[0]))
        if len(given[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")

    network.register_forward_pre_hook(check)


def trained(tmp_path, name: str, step, most: int | None) -> tuple[dict, dict, list[int]]:
    """Returns the weights and metrics of an epoch of plain gradient descent, which changes the weights by the
    sum of the gradients; and the numbers of rows per call during the training."""
    store = open_store(str(tmp_path / name))
    inputs = complete(step, store)
    step = step.model_copy(update={"seed": 7})  # another training of the same data
    task, steps, sizes = step.training_task(inputs), Root(store).step_store(step), []
    task.optimizer, task.learning_rate = torch.optim.SGD(task.trained.parameters(), lr=0.01), None
    if most is not None:
        limited(task.network, most, sizes)
    train(task, steps, inputs.digests, epochs=1)
    (receipt,) = steps.receipts(list(steps.done("epochs", inputs.digests).values()))
    return load_weights(steps.read(receipt)), receipt.metrics, sizes


@pytest.mark.parametrize("make", [score, discriminator])
def test_a_training_in_parts_has_the_gradient_of_the_whole_batch(tmp_path, make):
    step = make(write_images(tmp_path / "images.npz"))
    still = step.network.model_copy(update={"dropout": 0.0})  # dropout draws differently for parts
    step = step.model_copy(update={"epochs": 1, "network": still})
    weights, metrics, _ = trained(tmp_path, "whole", step, None)
    parts, its_metrics, sizes = trained(tmp_path, "parts", step, 5)
    assert "micro_batches" not in metrics and its_metrics["micro_batches"] == 4
    assert sizes[:2] == [16, 8]  # until the parts fit, and never again
    assert sum(size > 5 for size in sizes) == 2
    assert its_metrics["train_loss"] == pytest.approx(metrics["train_loss"], rel=1e-5)
    for name, value in weights.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-6)


def test_a_row_that_does_not_fit_alone_is_an_error_that_says_what_to_do(tmp_path):
    step = score(write_images(tmp_path / "images.npz"), epochs=1)
    with pytest.raises(ValueError, match="expected GPU memory for one row of a batch, found too little"):
        trained(tmp_path, "root", step, 0)


def test_workers_find_their_parts_before_they_meet_and_leave_no_gradients(tmp_path):
    step = score(write_images(tmp_path / "images.npz"), epochs=1)
    task = step.training_task(complete(step, open_store(str(tmp_path / "root"))))
    limited(task.network, 3, [])
    batches = MicroBatches(task, task.network, "train-score", alone=False)
    slots = torch.arange(16)
    with pytest.raises(
        torch.OutOfMemoryError
    ):  # not alone: the others would wait for this worker's gradients
        batches.backward(slots, 0, 1.0)
    batches.probe(slots, 0, reserve=1024)
    assert batches.parts == 8
    assert all(parameter.grad is None for parameter in task.trained.parameters())
    batches.backward(slots, 0, 1.0)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_is_recognised_by_whichever_library_says_so(error, expected):
    assert is_out_of_memory(error) is expected


def test_a_halved_batch_grows_again_after_a_while_and_waits_longer_where_that_was_too_early():
    room, asked = 4, []

    def make(first: int, last: int) -> int:
        asked.append(last - first)
        if last - first > room:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
        return last - first

    batches = Batches(8, of="x")

    def calls(number: int) -> list[int]:
        asked.clear()
        for _ in range(number):
            batches.map(make, 0, 8)
        return asked

    assert calls(PATIENCE) == [8] + [4] * 2 * PATIENCE
    assert calls(1)[0] == 8 and batches.size == 4  # too early
    assert 8 not in calls(2 * PATIENCE - 1)
    room = 8
    assert calls(1) == [8] and batches.size == 8
    assert calls(3) == [8, 8, 8]

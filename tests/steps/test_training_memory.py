"""The memory of a training, computed before it starts."""

import pytest
import torch
from steps.shipped import built

from dgflow.estimate.memory import TrainingMemory, _peak, training_memory
from dgflow.estimate.operations import Networks
from dgflow.report.plan_text import _memory_notes
from dgflow.specs.graph import graph
from dgflow.steps.training.train_discriminator import TrainDiscriminator


def test_the_peak_counts_tensors_that_are_alive_and_no_storage_twice():
    with _peak() as peak:
        first = torch.ones(1000, device="meta")
        second = first + 1
        del first
        third = second.view(10, 100) * 2
        del second
        _ = third.sum()
    assert (peak.most, peak.now) == (
        8000,
        4004,
    )  # two tensors of 4,000 bytes at most; one and a sum at the end


def test_the_published_batch_of_imagenet_256_takes_what_it_took():
    """ADM-G++ trains on 512 images of 256 pixels, which needs about 50 to 65 GB in one piece."""
    (step,) = [node.step for node in graph(built("adm")) if isinstance(node.step, TrainDiscriminator)]
    memory = training_memory(step, Networks().of(step))
    assert memory.batch == 512 and 50e9 < memory.of(1) < 65e9
    assert (memory.gpus(80e9), memory.parts(80e9)) == (1, 1)
    assert (memory.gpus(24e9), memory.parts(24e9)) == (3, 4)
    assert memory.of(4) == pytest.approx(memory.fixed + 128 * memory.row)


def test_a_plan_says_what_a_smaller_gpu_does():
    def notes(gpu: float) -> list[str]:
        from dgflow.estimate.estimates import Costs, Estimate

        estimate = Estimate(0, 0.0, None, None, TrainingMemory(fixed=1e9, row=1e8, batch=512))
        return _memory_notes(Costs("x", "", {"a": estimate, "b": estimate}, None, gpu))

    whole = "a training batch of 512 takes about 52.2 GB of a GPU's memory in one piece"
    assert notes(80e9) == [f"{whole}."]
    (cut,) = notes(24e9)
    assert cut.startswith(f"{whole}; warning: with 24 GB it is computed in 4 parts")
    assert "(--train-workers 3)" in cut
    assert notes(1.05e9) == [f"{whole}; warning: not even one of its rows fits into 1.05 GB."]

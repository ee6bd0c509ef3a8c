"""A loss that is not finite on one of several workers ends all of them at the same step."""

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from dgflow.runtime.training.finiteness import Finite
from dgflow.runtime.training.syncs import EVERY, Syncs, Wish
from dgflow.specs.training_task import TrainingTask


def task():
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    return TrainingTask(
        network=network,
        trained=network,
        optimizer=optimizer,
        batch_size=2,
        steps_per_epoch=100,
        loss=lambda network, slots, step: torch.zeros(1),
        held_out=0,
        measure=lambda network, items: {},
        summarise=lambda values: {},
    )


def _worker(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    syncs, total = Syncs(Finite(task(), "train", 2), rank, 2, 0), torch.zeros((), dtype=torch.float64)
    for step in range(100, 200):
        total += float("inf") if rank == 1 and step == 112 else 1.0
        try:
            syncs.after(step - 99, total, Wish)
        except FloatingPointError as error:
            (folder / f"{rank}").write_text(f"{step} {error}")
            return


def test_all_workers_stop_at_the_same_step_with_the_epoch_in_the_message(tmp_path):
    start_processes(_worker, args=(tmp_path,), nprocs=2, start_method="fork")
    own, other = ((tmp_path / str(rank)).read_text() for rank in (1, 0))
    assert EVERY == 10
    assert own.startswith(
        "119 expected a finite training loss, found inf in epoch 2, step 20 of 100, of train"
    )
    assert other.startswith("119 expected a finite training loss, found NaN or infinity of another worker in")
    assert "select one with .epoch(n), n < 2" in own

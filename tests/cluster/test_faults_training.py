"""Loss of worker hosts during and after training: training continues with the remaining ones, and grows
again."""

from __future__ import annotations

import sys
import time
from itertools import groupby
from pathlib import Path

import pytest
from cluster import cluster_driver
from cluster.disturbed import Undisturbed, made_here, parts, running, stopped_in_a_shard, store_of
from cluster.hosts import GCS_PORT, Network
from notes import attempts

from dgflow.engine.execute import result_of
from dgflow.store.open import open_store

SECONDS = 600.0  # timeout of a run
TOLERANCE = 0.1  # of the held-out loss: the workers' dropout differs, and the rounding of their sums


@pytest.fixture(scope="module")
def shared(network: Network):
    with running(network, "train") as made:
        yield made


@pytest.fixture(scope="module")
def trained(undisturbed: Undisturbed) -> str:
    """Returns a root in which the training ran to its end in one process, without a loss."""
    root = undisturbed.begun("trained", "train-", "generate-", "taken-")
    return made_here(cluster_driver.training(undisturbed.source), root)


def epochs(root: str, undisturbed: Undisturbed) -> dict[int, dict]:
    """Returns the metrics of each committed epoch."""
    return {
        number: receipt.metrics
        for number, receipt in parts(root, cluster_driver.training(undisturbed.source), "epochs").items()
    }


def closest(root: str, trained: str, undisturbed: Undisturbed) -> float:
    """Returns the relative difference of the last epoch's held-out loss from the undisturbed one's."""
    last = cluster_driver.EPOCHS
    found, wanted = (epochs(each, undisturbed)[last]["held_out_loss"] for each in (root, trained))
    return abs(found - wanted) / wanted


def sizes(root: str, undisturbed: Undisturbed) -> list[int]:
    """Returns the number of workers in each epoch."""
    found = epochs(root, undisturbed)
    assert sorted(found) == list(range(1, cluster_driver.EPOCHS + 1))
    return [found[number]["workers"] for number in sorted(found)]


def test_training_goes_on_with_the_workers_that_are_left_and_grows_when_a_host_joins(
    shared, undisturbed, trained
):
    root = undisturbed.begun("three", "train-", "generate-", "taken-")
    step = cluster_driver.training(undisturbed.source)
    shared.have(3)
    run = shared.drive("training", root, undisturbed.source)

    def epochs_of(workers: int) -> bool:
        return any(epoch["workers"] == workers for epoch in epochs(root, undisturbed).values())

    run.wait_for(lambda: len(parts(root, step, "epochs")) >= 3, "third epoch")
    for left in (2, 1):
        newest = max(parts(root, step, "epochs"))
        committer = attempts(store_of(root, step), "epochs")[newest]["host"]
        shared.lose(next(host for host in shared.workers if host.name == committer))
        run.wait_for(lambda left=left: epochs_of(left), f"epoch of {left} workers")
    shared.add()
    run.says("training grows to 2 workers")
    run.finish(SECONDS)
    assert [workers for workers, _ in groupby(sizes(root, undisturbed))] == [3, 2, 1, 2]
    assert closest(root, trained, undisturbed) < TOLERANCE


def test_a_notice_that_a_host_will_be_taken_away_makes_a_checkpoint_at_once_and_a_start_without_it(
    shared, undisturbed
):
    """The notice is given as a spot host's own script or a pod's hook gives it. Within its only epoch, the
    training has no other checkpoint before ten minutes."""
    root = undisturbed.begun("drained", "train-", "generate-", "taken-")
    step = cluster_driver.long(undisturbed.source)
    leaving = shared.have(2)[0]
    run = shared.drive("long", root, undisturbed.source)
    steps = store_of(root, step)
    run.wait_for(lambda: steps.attempt("epochs", 1).get("step", 0) >= 50, "fiftieth step")
    address = {"RAY_ADDRESS": f"{shared.head.address}:{GCS_PORT}"}
    notice = "--reason DRAIN_NODE_REASON_PREEMPTION --reason-message spot --deadline-remaining-seconds 120"
    began = time.monotonic()
    drain = [str(Path(sys.executable).parent / "ray"), "drain-node", *notice.split()]
    leaving.run(drain, address).finish()
    told = time.monotonic() - began
    safe = run.wait_for(lambda: steps.committed("steps"), "checkpoint within the epoch")
    print(f"step {max(safe)} is safe {time.monotonic() - began:.1f} s after the notice began ({told:.1f} s)")
    run.says("training continues with 1 worker")
    shared.lose(leaving)
    run.finish(SECONDS)
    [receipt] = parts(root, step, "epochs").values()
    assert receipt.metrics["workers"] == 1 and "try" not in run.output
    assert steps.committed("steps") == {}


def test_a_host_lost_after_the_training_changes_no_metric(shared, undisturbed):
    target, guided = cluster_driver.table(undisturbed.source), cluster_driver.guided(undisturbed.source)
    compared = made_here(target, undisturbed.begun("table"))
    quiet = Undisturbed(compared, undisturbed.source)
    root = quiet.begun("table-disturbed", guided.name, "features-", "statistics-", "measure-", "evaluate-")
    shared.have(2)
    run = shared.drive("table", root, undisturbed.source)
    lost = shared.workers[0]
    stopped_in_a_shard(run, root, guided, lost)
    shared.lose(lost)
    run.finish(SECONDS)
    quiet.check(root, guided)
    assert result_of(target, open_store(root)) == result_of(target, open_store(compared))

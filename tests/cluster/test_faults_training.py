"""Worker hosts that are lost while networks are trained, and after: training goes on with those that are
left, and grows again."""

from __future__ import annotations

from itertools import groupby

import pytest
from cluster import cluster_driver
from cluster.disturbed import Undisturbed, drive, parts, running, stopped_in_a_shard, store_of
from cluster.hosts import Network
from notes import attempts

from dgflow.engine.execute import result_of
from dgflow.store.open import open_store

SECONDS = 400.0  # for a run to end
TOLERANCE = 0.1  # of the held-out loss: the workers' dropout differs, and the rounding of their sums


@pytest.fixture(scope="module")
def shared(network: Network):
    with running(network, "train") as made:
        yield made


@pytest.fixture(scope="module")
def trained(network: Network, undisturbed: Undisturbed) -> str:
    """A root in which the training ran to its end on one host, with nothing lost."""
    root = undisturbed.begun("trained", "train-", "generate-", "taken-")
    drive(network.hosts["laptop"], "training", root, undisturbed.source).finish(SECONDS)
    return root


def epochs(root: str, undisturbed: Undisturbed) -> dict[int, dict]:
    """What was measured in each epoch that is committed."""
    return {
        number: receipt.metrics
        for number, receipt in parts(root, cluster_driver.training(undisturbed.source), "epochs").items()
    }


def closest(root: str, trained: str, undisturbed: Undisturbed) -> float:
    """By how much the last epoch's held-out loss differs from the undisturbed one's, as a share of that."""
    last = cluster_driver.EPOCHS
    found, wanted = (epochs(each, undisturbed)[last]["held_out_loss"] for each in (root, trained))
    return abs(found - wanted) / wanted


def sizes(root: str, undisturbed: Undisturbed) -> list[int]:
    """How many workers trained each epoch."""
    found = epochs(root, undisturbed)
    assert sorted(found) == list(range(1, cluster_driver.EPOCHS + 1))
    return [found[number]["workers"] for number in sorted(found)]


def test_training_goes_on_with_one_of_two_workers(shared, undisturbed, trained):
    root = undisturbed.begun("two", "train-", "generate-", "taken-")
    step = cluster_driver.training(undisturbed.source)
    shared.have(2)
    run = shared.drive("training", root, undisturbed.source)
    run.wait_for(lambda: len(parts(root, step, "epochs")) >= 3, "third epoch")
    shared.lose(shared.workers[0])
    run.finish(SECONDS)
    assert [workers for workers, _ in groupby(sizes(root, undisturbed))] == [2, 1]
    assert closest(root, trained, undisturbed) < TOLERANCE


def test_training_goes_on_with_two_of_three_workers_and_grows_again_when_a_host_joins(
    shared, undisturbed, trained
):
    root = undisturbed.begun("three", "train-", "generate-", "taken-")
    step = cluster_driver.training(undisturbed.source)
    hosts = {host.name: host for host in shared.have(3)}
    run = shared.drive("training", root, undisturbed.source)
    run.wait_for(lambda: len(parts(root, step, "epochs")) >= 3, "third epoch")
    [first] = {attempts(store_of(root, step), "epochs")[3]["host"]}  # the one that commits
    shared.lose(hosts[first])
    run.wait_for(
        lambda: any(epoch["workers"] == 2 for epoch in epochs(root, undisturbed).values()),
        "epoch of two workers",
    )
    shared.add()
    run.says("training grows to 3 workers")
    run.finish(SECONDS)
    assert [workers for workers, _ in groupby(sizes(root, undisturbed))] == [3, 2, 3]
    assert closest(root, trained, undisturbed) < TOLERANCE


def test_a_host_lost_after_the_training_changes_no_metric(shared, network, undisturbed):
    compared = undisturbed.begun("table")
    drive(network.hosts["laptop"], "table", compared, undisturbed.source).finish(SECONDS)
    target, guided = cluster_driver.table(undisturbed.source), cluster_driver.guided(undisturbed.source)
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

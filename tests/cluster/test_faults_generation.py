"""Loss of hosts, links and drivers while samples are made: every index appears once, and each row equals the
undisturbed run's."""

import time

import pytest
from cluster.disturbed import (
    Cluster,
    Undisturbed,
    hosts_of,
    in_flight,
    parts,
    running,
    stopped_in_a_shard,
    store_of,
    taken_over,
    written,
)
from cluster.hosts import Network, Process, wait_for
from notes import attempts

from dgflow import Generate

SECONDS = 300.0  # timeout of a disturbed run


@pytest.fixture(scope="module")
def shared(network: Network):
    """Returns one head for all of these tests; each takes the worker hosts that it needs, and leaves the
    working ones."""
    with running(network, "gen") as made:
        yield made


@pytest.fixture
def step(undisturbed: Undisturbed) -> Generate:
    return undisturbed.samples


@pytest.fixture
def root(undisturbed: Undisturbed, step: Generate, request: pytest.FixtureRequest) -> str:
    """Returns a root that lacks only the samples."""
    return undisturbed.begun(request.node.name.removeprefix("test_"), step.name, "taken-")


def at_work(shared: Cluster, undisturbed: Undisturbed, root: str, hosts: int) -> Process:
    """Returns a run on that many hosts that has completed three shards and works on all of them."""
    step, workers = undisturbed.samples, shared.have(hosts)
    run = shared.drive("samples", root, undisturbed.source)
    run.wait_for(
        lambda: len(parts(root, step)) >= 3 and all(in_flight(root, step, host) for host in workers),
        "work on all hosts",
    )
    return run


def test_a_lost_hosts_shard_runs_again_within_a_minute_and_another_host_joins_in(
    shared, undisturbed, root, step
):
    run = at_work(shared, undisturbed, root, hosts=2)
    lost, left = shared.workers
    [number] = stopped_in_a_shard(run, root, step, lost)
    shared.lose(lost)
    began = time.monotonic()
    [another] = shared.add(ready=False)
    run.wait_for(lambda: taken_over(root, step, number, lost), "second attempt")
    seconds = time.monotonic() - began
    print(f"shard {number} runs again {seconds:.1f} s after its host was lost")
    [pid] = stopped_in_a_shard(run, root, step, left).values()  # so that work remains for the new host
    run.wait_for(lambda: another.name in hosts_of(root, step), "work on the new host")
    left.signal("CONT", pid)
    run.finish(SECONDS)
    undisturbed.check(root, step)
    assert seconds < 60


def test_a_host_that_was_cut_off_and_comes_back_changes_nothing(shared, network, undisturbed, root, step):
    run = at_work(shared, undisturbed, root, hosts=2)
    away = shared.workers[0]
    [(number, pid)] = stopped_in_a_shard(run, root, step, away).items()
    network.link(away, "down")
    away.signal("CONT", pid)
    run.wait_for(lambda: taken_over(root, step, number, away), "second attempt")
    network.link(away, "up")
    run.finish(SECONDS)
    undisturbed.check(root, step)
    shared.lose(away)


def test_a_host_that_only_the_store_still_hears_writes_what_others_write_too_and_each_shard_stands_once(
    shared, network, undisturbed, root, step
):
    run = at_work(shared, undisturbed, root, hosts=2)
    away = shared.workers[0]
    [(number, pid)] = stopped_in_a_shard(run, root, step, away).items()
    network.cut(away, shared.head)
    run.wait_for(lambda: number in parts(root, step), "the shard made elsewhere")
    made = parts(root, step)[number]
    first = written(root, made.key)
    away.signal("CONT", pid)  # it continues in the middle of the shard, and commits it to the store late
    run.finish(SECONDS)
    wait_for(lambda: written(root, made.key) > first, "the late write of the same bytes")
    undisturbed.check(root, step)
    assert parts(root, step)[number] == made
    shared.lose(away)


def test_with_all_workers_lost_the_driver_waits_says_so_and_goes_on_with_new_ones(
    shared, undisturbed, root, step
):
    run = at_work(shared, undisturbed, root, hosts=2)
    for host in list(shared.workers):
        shared.lose(host)
    run.says("workers: 0 on 0 hosts")
    run.says("s, waiting: ")
    shared.add()
    run.finish(SECONDS)
    undisturbed.check(root, step)


def test_a_killed_driver_that_is_started_again_builds_only_what_was_missing(shared, undisturbed, root, step):
    run = at_work(shared, undisturbed, root, hosts=2)
    run.kill()
    before = parts(root, step)
    begun = {
        number: note for number, note in attempts(store_of(root, step), "shards").items() if number in before
    }
    shared.drive("samples", root, undisturbed.source).finish(SECONDS)
    after, notes = parts(root, step), attempts(store_of(root, step), "shards")
    assert {number: after[number] for number in before} == before  # the identical receipts, including times
    assert {number: notes[number] for number in before} == begun  # nor was any of them started again
    undisturbed.check(root, step)


def test_two_drivers_on_one_root_at_once_both_end_well(shared, undisturbed, root, step):
    shared.have(2)
    first = shared.drive("samples", root, undisturbed.source, workers=1)
    [name] = first.wait_for(lambda: hosts_of(root, step), "work of the first driver")
    [own] = [host for host in shared.workers if host.name == name]
    [pid] = stopped_in_a_shard(first, root, step, own).values()  # so that work remains for the second driver
    second = shared.drive("samples", root, undisturbed.source, workers=1)
    second.wait_for(lambda: hosts_of(root, step) - {name}, "work of the second driver")
    own.signal("CONT", pid)
    for run in (first, second):
        run.finish(SECONDS)
    undisturbed.check(root, step)

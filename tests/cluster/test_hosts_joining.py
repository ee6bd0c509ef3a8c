"""Hosts that join and leave during a run: the run uses the available ones, and reports it."""

import re

from cluster.disturbed import Undisturbed, running, stopped_in_a_shard
from cluster.hosts import Network, Process

WORKERS = re.compile(r"\d\d:\d\d:\d\d workers: (\d) on (\d) hosts?")


def test_a_run_goes_from_one_host_to_three_and_back_to_one_without_a_restart(
    network: Network, undisturbed: Undisturbed
):
    step = undisturbed.samples
    root = undisturbed.begun("joining", step.name, "taken-")
    with running(network, "join", workers=1) as cluster:
        [first] = cluster.workers
        run = cluster.drive("samples", root, undisturbed.source)
        [pid] = stopped_in_a_shard(run, root, step, first).values()  # so that work remains for the others
        cluster.add(2)
        run.wait_for(lambda: told(run)[-1:] == [(3, 3)], "three hosts at work")
        for host in cluster.workers[1:]:
            cluster.lose(host)
        run.wait_for(lambda: told(run)[-1:] == [(1, 1)], "one host at work")
        first.signal("CONT", pid)
        run.finish(300)
        undisturbed.check(root, step)
        assert [workers for workers, _ in told(run) if workers in (1, 3)] == [1, 3, 1], run.output


def told(run: Process) -> list[tuple[int, int]]:
    """Returns workers and hosts, from the driver's own lines."""
    return [(int(workers), int(hosts)) for workers, hosts in WORKERS.findall(run.output)]

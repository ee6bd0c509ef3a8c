"""Hosts that are alive but cannot work: a clock that is a day off, a full disk.

The other hosts do the work.
"""

from pathlib import Path

import pytest
from cluster.disturbed import hosts_of, in_flight, parts, running
from cluster.hosts import Network

SECONDS = 300.0  # timeout of a run


@pytest.fixture(scope="module")
def shared(network: Network):
    with running(network, "host", workers=1) as made:
        yield made


def test_a_host_whose_clock_is_a_day_off_is_set_aside_with_its_error_and_the_run_completes(
    shared, undisturbed
):
    step = undisturbed.samples
    root = undisturbed.begun("clock", step.name, "taken-")
    [wrong] = shared.add(env={"PYTHONPATH": str(Path(__file__).with_name("tomorrow"))})
    output = shared.drive("samples", root, undisturbed.source).finish(SECONDS)
    undisturbed.check(root, step)
    told = [line for line in output.splitlines() if wrong.name in line and "set aside" in line]
    assert len(told) == 1 and "clock" in told[0], output
    assert wrong.name not in hosts_of(root, step)  # S3 rejects a signature of another day
    shared.lose(wrong)


def test_a_host_whose_disk_fills_up_does_not_keep_the_run_from_completing(shared, undisturbed):
    step = undisturbed.samples
    root = undisturbed.begun("disk", step.name, "taken-")
    [full] = shared.add(disk_mb=64)
    run = shared.drive("samples", root, undisturbed.source)
    run.wait_for(lambda: len(parts(root, step)) >= 2 and in_flight(root, step, full), "work on both hosts")
    filler = full.run(["dd", "if=/dev/zero", "of=/mnt/tmp/everything", "bs=64k"])
    filler.wait()
    assert "No space left on device" in filler.output
    run.finish(SECONDS)
    undisturbed.check(root, step)
    shared.lose(full)


def test_a_host_whose_disk_is_full_before_it_gets_work_does_not_keep_the_run_from_completing(
    shared, undisturbed
):
    step = undisturbed.samples
    root = undisturbed.begun("full-disk", step.name, "taken-")
    [full] = shared.add(disk_mb=64)
    full.run(["dd", "if=/dev/zero", "of=/mnt/tmp/everything", "bs=64k"]).wait()
    shared.drive("samples", root, undisturbed.source).finish(SECONDS)
    undisturbed.check(root, step)
    shared.lose(full)

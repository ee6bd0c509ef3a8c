"""The pool's policy on simulated hosts with a simulated clock: assignment of items, consequences of failures,
bad hosts, the tail."""

import errno
import gc
import logging
import tracemalloc
from collections import Counter
from itertools import chain, repeat

import pytest
from runtime.simulated_fleet import Does, SimulatedFleet, items_of, nothing, run

from dgflow.runtime.devices import DeviceBroken, NoDevice
from dgflow.runtime.pool.hosts import Hosts, Item
from dgflow.runtime.pool.pool import Pool, WorkersFailed
from dgflow.store.objects import StoreRefusal


def test_an_item_on_a_host_that_is_lost_is_done_elsewhere_and_nothing_is_counted_against_it():
    fleet = SimulatedFleet(lambda item, host: Does(30.0))
    fleet.join("stays")
    lost = [fleet.join(f"lost{number}") for number in range(3)]
    for number, host in enumerate(lost):  # three times in a row, which would otherwise make it a poison item
        fleet.at(10.0 + number, lambda host=host: fleet.lose(host))
    results, failures = run(fleet, range(4), attempts=1)
    assert items_of(results) == list(range(4)) and not failures


def test_a_death_that_is_told_before_its_host_is_known_to_be_lost_is_taken_back():
    fleet = SimulatedFleet(lambda item, host: Does(30.0 if item else 31.0))
    fleet.join("stays")
    for number in range(4):  # each worker takes the item, and dies
        host = fleet.join(f"lost{number}")
        fleet.at(20.0 + 60 * number, lambda host=host: fleet.lose(host, noticed=15.0))
    results, failures = run(fleet, range(200))
    assert items_of(results) == list(range(200)) and not failures


def test_the_items_of_a_host_that_was_cut_off_are_given_to_others_as_soon_as_the_cluster_gives_it_up():
    fleet = SimulatedFleet(lambda item, host: Does(10.0))
    fleet.join("stays")
    cut = fleet.join("cut")
    fleet.at(15.0, lambda: fleet.cut(cut, noticed=30.0))
    results, failures = run(fleet, range(20))
    assert items_of(results) == list(range(20)) and not failures
    held = {item for when, item, host in fleet.runs if host == "cut"} - {
        item for _, item, host in results if host == "cut"
    }
    assert held and all(host == "stays" and when >= 45 for when, item, host in results if item in held)


def test_what_a_lost_worker_had_is_begun_again_within_seconds():
    fleet = SimulatedFleet(lambda item, host: Does(60.0))
    for name in "abcd":
        fleet.join(name)
    lost = fleet.running[0]
    fleet.at(30.0, lambda: fleet.lose(lost))
    fleet.at(33.0, lambda: fleet.join("new") and None)
    run(fleet, range(4))
    begun = Counter(item for _, item, _ in fleet.runs)
    (again,) = [item for item, number in begun.items() if number == 2]
    assert max(when for when, item, _ in fleet.runs if item == again) <= 30 + 3 + 2 + 2 + 1


def test_an_error_counts_against_its_item_and_not_against_the_one_that_waits_behind_it():
    fleet = SimulatedFleet(lambda item, host: Does(5.0, dies=item == 2))
    fleet.join("a", places=2)
    results, failures = run(fleet, range(12))
    assert items_of(results) == [item for item in range(12) if item != 2]
    assert [(failure.item, failure.attempts) for failure in failures] == [(2, 3)]
    assert all(
        number == 1 for item, number in Counter(item for _, item, _ in fleet.runs).items() if item != 2
    )


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"),
        FloatingPointError("bad"),
        StoreRefusal("access denied"),
        PermissionError(errno.EACCES, "denied"),
        OSError(errno.ENOSPC, "the disk is full"),
        OSError(errno.EDQUOT, "the quota is used up"),
    ],
    ids=repr,
)
def test_what_no_repetition_mends_is_given_up_at_once(error):
    fleet = SimulatedFleet(lambda item, host: Does(1.0, error=error if item == 1 else None))
    fleet.join("a")
    _, failures = run(fleet, range(3))
    assert [(failure.item, failure.attempts) for failure in failures] == [(1, 1)]


def test_what_looks_like_bad_input_is_tried_once_more_on_another_host_and_a_bad_host_is_found_out():
    fleet = SimulatedFleet(
        lambda item, host: Does(0.1, ValueError("no certificates here")) if host == "bad" else Does(2.0)
    )
    fleet.join("bad")
    fleet.join("good")
    results, failures = run(fleet, range(40))
    assert items_of(results) == list(range(40)) and not failures
    assert sum(host == "bad" for _, _, host in fleet.runs) <= 4


def test_where_nothing_works_at_all_the_rest_is_not_tried():
    fleet = SimulatedFleet(lambda item, host: Does(1.0, RuntimeError("may not write")))
    fleet.join("one", places=2)
    fleet.join("two", places=2)
    results, failures = run(fleet, range(1000))
    assert not results and 10 <= len(failures) <= 14
    assert len(fleet.runs) < 60  # three attempts each, and the items in progress


def test_a_retry_goes_to_a_host_where_the_item_has_not_failed():
    fleet = SimulatedFleet(
        lambda item, host: Does(1.0, error=OSError("no") if item == 7 and host != "c" else None)
    )
    for name in "abc":
        fleet.join(name)
    results, failures = run(fleet, range(40))
    assert items_of(results) == list(range(40)) and not failures
    assert len({host for _, item, host in fleet.runs if item == 7}) == len(
        [1 for _, item, _ in fleet.runs if item == 7]
    )


def test_a_retry_goes_to_the_same_host_where_there_is_no_other():
    fleet = SimulatedFleet(lambda item, host: Does(1.0, error=OSError("no") if item == 7 else None))
    fleet.join("a", places=2)
    results, failures = run(fleet, range(9))
    assert len(results) == 8 and failures[0].attempts == 3


def test_a_host_on_which_everything_fails_that_others_can_do_is_set_aside_with_one_warning(caplog):
    fleet = SimulatedFleet(
        lambda item, host: (
            Does(0.1, error=OSError("no space left on device")) if host == "full" else Does(10.0)
        )
    )
    fleet.join("full", places=2)
    fleet.join("good", places=2)
    with caplog.at_level(logging.WARNING):
        results, failures = run(fleet, range(100))
    assert items_of(results) == list(range(100)) and not failures
    warnings = [record.getMessage() for record in caplog.records if "set aside" in record.getMessage()]
    assert len(warnings) == 1 and "host full" in warnings[0] and "no space left on device" in warnings[0]
    assert fleet.workers_on("full") == 0 and all(worker.avoid == {"id0"} for worker in fleet.pending)
    assert len([1 for _, _, host in fleet.runs if host == "full"]) <= 8  # it does not fail all items first


def test_a_host_that_joins_later_is_used_in_the_place_of_one_that_was_set_aside():
    fleet = SimulatedFleet(
        lambda item, host: Does(1.0, error=OSError("no")) if host == "full" else Does(10.0)
    )
    fleet.join("full")
    fleet.join("good")
    fleet.at(100.0, lambda: fleet.join("new") and None)
    results, failures = run(fleet, range(40), workers=2)
    assert not failures and {host for _, _, host in results} == {"good", "new"}


def test_a_few_bad_items_do_not_bring_a_host_down():
    fleet = SimulatedFleet(
        lambda item, host: Does(1.0, error=OSError("bad item") if item % 10 == 3 else None)
    )
    for name in "abc":
        fleet.join(name, places=2)
    results, failures = run(fleet, range(100))
    assert len(results) == 90 and {failure.attempts for failure in failures} == {3} and len(failures) == 10
    last = max(when for when, _, _ in fleet.runs)
    assert {host for when, _, host in fleet.runs if when > last - 10} == {"a", "b", "c"}


def test_a_host_that_does_some_items_is_not_set_aside_for_those_that_it_fails():
    hosts = Hosts()
    hosts.seen({"x": "x", "y": "y"}, 0.0)
    first, second, third = (Item(None, number, number) for number in range(3))
    for item in (first, second):
        hosts.failed(item, "x", OSError("no"), died=False, now=0.0)
    assert hosts.usable({"x", "y"}) == {"y"} and hosts.usable({"x"}) == {"x"}
    hosts.succeeded(third, "x")
    assert hosts.usable({"x", "y"}) == {"x", "y"}
    assert hosts.succeeded(first, "y") == hosts.succeeded(second, "y") == []


def test_a_worker_that_was_on_its_way_to_a_host_when_that_was_set_aside_is_stopped():
    starts = chain([Does(1.0)], repeat(Does(60.0)))
    fleet = SimulatedFleet(lambda item, host: Does(1.0, error=OSError("no")) if host == "bad" else Does(5.0))
    fleet.join("bad", places=2, starts=lambda: next(starts))
    fleet.join("good")
    run(fleet, range(40))
    assert [host for when, host in fleet.stopped if when >= 60][0] == "bad"  # when it was ready
    assert not [when for when, _, host in fleet.runs if host == "bad" and when > 30]


def test_failures_everywhere_at_once_set_no_host_aside(caplog):
    """If the store is down for a while, no host is at fault."""
    fleet = SimulatedFleet()
    fleet.does = lambda item, host: Does(1.0, error=OSError("503") if 20 <= fleet.now < 21 else None)
    for name in "abc":
        fleet.join(name)
    results, failures = run(fleet, range(200))
    assert items_of(results) == list(range(200)) and not failures
    assert "set aside" not in caplog.text


def test_an_idle_worker_takes_what_waits_behind_a_slow_one():
    fleet = SimulatedFleet(lambda item, host: Does(100.0 if host == "slow" else 1.0))
    fleet.join("slow")
    fleet.join("fast")
    results, _ = run(fleet, range(10))
    assert items_of(results) == list(range(10))
    assert len([1 for _, item, host in fleet.runs if host == "slow"]) == 1
    assert max(when for when, _, _ in results) == pytest.approx(
        102.0
    )  # and not two of the slow host's items one after the other


def test_of_two_copies_the_first_to_end_counts_and_the_other_is_ignored_good_or_bad():
    for late in (Does(50.0), Does(50.0, error=OSError("late")), Does(50.0, dies=True)):
        fleet = SimulatedFleet()
        # The queued item had already started: the cancellation has no effect.
        fleet.cancel = lambda call: None
        fleet.does = lambda item, host, late=late: (
            late if (item, host) == (2, "slow") else Does(60.0 if host == "slow" else 10.0)
        )
        fleet.join("slow")
        fleet.join("fast", places=1)
        results = []
        with Pool(None, fleet=fleet) as pool:
            for items in (range(6), range(10, 16)):
                assert not pool.map(nothing, items, lambda item, _, results=results: results.append(item))
        assert sorted(results) == [*range(6), *range(10, 16)]


def test_all_hosts_lost_and_new_ones_later_costs_only_what_was_in_flight():
    fleet = SimulatedFleet(lambda item, host: Does(10.0))
    old = [fleet.join(f"old{number}") for number in range(3)]
    for host in old:
        fleet.at(25.0, lambda host=host: fleet.lose(host, noticed=10.0))
    fleet.at(200.0, lambda: fleet.join("new", places=3) and None)
    results, failures = run(fleet, range(30))
    assert items_of(results) == list(range(30)) and not failures
    assert len(fleet.runs) <= 30 + 3


def test_calls_are_named_after_their_step_so_that_ray_keeps_one_series_a_step_and_not_one_an_item():
    fleet = SimulatedFleet()
    fleet.join("a")
    run(fleet, [4, 5], title="generate-0123", unit="shard")
    run(fleet, [object(), "x"], unit="part")
    assert fleet.names == ["generate-0123: shard", "generate-0123: shard", "part", "part"]


def test_an_interrupted_job_leaves_nothing_to_the_next_one():
    fleet = SimulatedFleet()
    fleet.join("a", places=2)

    def stop(item, _):
        raise KeyboardInterrupt

    with Pool(None, fleet=fleet) as pool:
        with pytest.raises(KeyboardInterrupt):
            pool.map(nothing, range(10), stop)
        results = []
        pool.map(nothing, range(100, 110), lambda item, _: results.append(item))
    assert sorted(results) == list(range(100, 110))


def test_the_drivers_memory_does_not_grow_with_the_number_of_items():
    fleet = SimulatedFleet(
        lambda item, host: Does(1.0, error=OSError("once") if item % 7 == 0 and host == "a" else None)
    )
    forgetful = type("Forgetful", (list,), {"append": lambda self, _: None})()
    fleet.runs = fleet.names = fleet.idle = fleet.stopped = forgetful
    fleet.join("a", places=4)
    fleet.join("b", places=4)
    seen = {}

    def result(item, _):
        nonlocal done
        done += 1
        if done in (2_000, 20_000):
            gc.collect()  # of the simulation's workers, which have reference cycles with their calls
            seen[done] = tracemalloc.get_traced_memory()[0]

    done = 0
    logging.disable(logging.WARNING)
    tracemalloc.start()
    try:
        with Pool(None, fleet=fleet) as pool:
            assert not pool.map(nothing, range(20_001), result)
    finally:
        tracemalloc.stop()
        logging.disable(logging.NOTSET)
    assert seen[20_000] - seen[2_000] < 50_000


SICK = Does(0.01, error=DeviceBroken("CUDA error: an illegal memory access was encountered"))


@pytest.mark.parametrize("elastic", [True, False])
def test_one_sick_gpu_of_eight_costs_a_few_attempts_and_no_item(elastic, caplog):
    """After a CUDA error every later call of a process fails in milliseconds, so its worker would always be
    the idle one, and take every item three times."""
    fleet = SimulatedFleet(lambda item, host: Does(60.0), elastic=elastic)
    host = fleet.join("host", places=8, starts=lambda: Does(20.0))
    fleet.at(1_000.0, lambda: host.sick.update({3: SICK}))
    results, failures = run(fleet, range(400))
    assert items_of(results) == list(range(400)) and not failures
    assert len(fleet.runs) - 400 <= 4
    assert "GPU 3 of host host is set aside: it failed 2 workers in a row" in caplog.text
    seconds = max(when for when, _, _ in results)
    assert seconds < 1.02 * (1_000 + (400 - 8 * (1_000 - 20) / 60) / 7 * 60 + 120)  # seven GPUs continue


def test_an_item_that_failed_goes_to_another_worker_of_the_same_host():
    fleet = SimulatedFleet(lambda item, host: Does(10.0), elastic=False)
    host = fleet.join("host", places=3)
    host.sick[1] = Does(1.0, error=RuntimeError("no"))  # an error that torch would not recognise
    results, failures = run(fleet, range(60))
    assert items_of(results) == list(range(60)) and not failures


def test_a_worker_that_fails_twice_without_a_success_is_replaced():
    fleet = SimulatedFleet(lambda item, host: Does(10.0), elastic=False)
    host = fleet.join("host", places=2)
    host.sick[0] = Does(1.0, error=RuntimeError("no"))
    fleet.at(3.5, lambda: host.sick.clear())  # as a new process often recovers
    results, failures = run(fleet, range(40))
    assert items_of(results) == list(range(40)) and not failures
    assert len([when for when, _ in fleet.stopped if when < 30]) == 1


def test_bad_items_replace_no_worker():
    bad = {3, 4, 5, 6}
    fleet = SimulatedFleet(
        lambda item, host: Does(10.0, error=ValueError("bad input") if item in bad else None), elastic=False
    )
    fleet.join("host", places=2)
    results, failures = run(fleet, range(20))
    assert items_of(results) == sorted(set(range(20)) - bad) and {each.item for each in failures} == bad
    assert not [when for when, _ in fleet.stopped if when < max(when for when, _, _ in results)]


def test_a_host_whose_only_gpu_is_sick_is_set_aside_and_not_held():
    fleet = SimulatedFleet(lambda item, host: Does(10.0))
    fleet.join("good", places=2)
    sick = fleet.join("sick")
    sick.sick[0] = SICK
    results, failures = run(fleet, range(60))
    assert items_of(results) == list(range(60)) and not failures
    assert len([host for _, _, host in fleet.runs if host == "sick"]) <= 4
    assert fleet.workers_on("sick") == 0


def test_a_host_whose_gpus_cannot_be_used_gets_no_work_and_its_message_is_told(caplog):
    fleet = SimulatedFleet(lambda item, host: Does(10.0))
    fleet.join("good")
    blind = fleet.join("blind", places=4)
    blind.starts = lambda: Does(2.0, error=NoDevice(blind.id, "found none that torch can use"))
    results, failures = run(fleet, range(20))
    assert items_of(results) == list(range(20)) and not failures
    assert caplog.text.count("host blind is set aside: found none that torch can use") == 1


def test_a_machine_whose_gpu_cannot_be_used_ends_the_job_with_the_reason():
    fleet = SimulatedFleet(elastic=False)
    host = fleet.join("here")
    host.starts = lambda: Does(2.0, error=NoDevice(host.id, "found none that torch can use"))
    with pytest.raises(
        WorkersFailed, match="no host has a GPU that can be used; .* found none that torch can use"
    ):
        run(fleet, range(4))


def together(fleet, jobs, *, until=float("inf")):
    """Returns the results of several jobs (items, place) of one pool that were added at once, by job, in the
    order of arrival; `until` stops handing out items."""
    results = [[] for _ in jobs]
    with Pool(None, fleet=fleet) as pool:
        for (items, place), found in zip(jobs, results, strict=True):
            pool.add(
                nothing, items, lambda item, _, found=found: found.append((fleet.now, item)), place=place
            )
        while pool.busy:
            pool.turn()
            if fleet.now >= until:
                pool.stop()
    return results


def test_the_last_items_of_a_job_leave_no_worker_idle_while_another_job_has_some():
    fleet = SimulatedFleet(lambda item, host: Does(10.0))
    fleet.join("a", places=4)
    first, second = together(fleet, [(range(6), 0), (range(10, 16), 1)])
    assert items_of([(*each, None) for each in first]) == list(range(6))
    assert fleet.now == pytest.approx(2.0 + 30.0)  # 12 items by 4 workers; sequential jobs take 40 s
    assert max(when for when, _ in first) < max(when for when, _ in second)


def test_items_of_the_job_with_the_lower_place_are_taken_first_though_it_came_later():
    fleet = SimulatedFleet(lambda item, host: Does(10.0))
    fleet.join("a")
    later, earlier = together(fleet, [(range(4), 5), (range(10, 14), 2)])
    assert max(when for when, _ in earlier) < min(when for when, _ in later)


def test_a_lost_host_gives_each_job_its_items_back():
    fleet = SimulatedFleet(lambda item, host: Does(10.0))
    host = fleet.join("a", places=3)
    fleet.join("b")
    fleet.at(25.0, lambda: fleet.lose(host))
    results = together(fleet, [(range(7), 0), (range(10, 17), 1)])
    assert [sorted(item for _, item in found) for found in results] == [[*range(7)], [*range(10, 17)]]
    assert len(fleet.runs) <= 14 + 3


def test_a_pool_that_is_stopped_finishes_what_is_at_work_and_begins_nothing_else():
    fleet = SimulatedFleet(lambda item, host: Does(10.0))
    fleet.join("a", places=2)
    first, second = together(fleet, [(range(3), 0), (range(10, 30), 1)], until=13.0)
    assert sorted(item for _, item in first) == [0, 1, 2]
    assert [item for _, item in second] == [10] and len(fleet.runs) == 4

"""The number of a pool's workers on simulated hosts with a simulated clock: growth, losses, releases,
waiting, failed starts."""

from itertools import pairwise

import pytest
from runtime.simulated_fleet import Does, SimulatedFleet, items_of, nothing, run

from dgflow.runtime.pool.pool import Pool, WorkersFailed


def test_no_more_workers_are_asked_for_than_items_are_open_nor_than_there_is_room_nor_than_is_allowed():
    for items, workers, places, expected in [(3, None, 8, 3), (100, None, 8, 8), (100, 5, 8, 5)]:
        fleet = SimulatedFleet()
        fleet.join("a", places=places)
        asked = []
        fleet.at(
            1.0, lambda fleet=fleet, asked=asked: asked.append(fleet.workers_on("a") + len(fleet.pending))
        )
        results, failures = run(fleet, range(items), workers=workers)
        assert asked == [expected] and items_of(results) == list(range(items)) and not failures


def test_an_autoscaler_sees_as_many_workers_as_it_may_bring_hosts_for_and_a_thousand_at_most():
    for most, expected in [(64, 64), (5000, 1000)]:
        fleet = SimulatedFleet(most=most)
        asked = []
        fleet.at(1.0, lambda fleet=fleet, asked=asked: asked.append(len(fleet.pending)))
        fleet.at(2.0, lambda fleet=fleet, most=most: fleet.join("late", places=most) and None)
        results, _ = run(fleet, range(1200))
        assert asked == [expected] and len(results) == 1200


def test_hosts_that_join_while_it_runs_get_work_without_a_restart():
    fleet = SimulatedFleet(lambda item, host: Does(10.0))
    fleet.join("first")
    fleet.at(100.0, lambda: fleet.join("second", places=3) and None)
    results, failures = run(fleet, range(60))
    assert items_of(results) == list(range(60)) and not failures
    assert len({host for _, _, host in results}) == 2
    assert (
        min(when for when, _, host in fleet.runs if host == "second") <= 105
    )  # queried every 2 s, and 2 s to start
    assert max(when for when, _, _ in results) < 260  # a single worker takes 600


def test_a_pending_worker_is_not_given_up_while_hosts_come_and_go():
    fleet = SimulatedFleet()
    first = fleet.join("first")
    fleet.at(5.0, lambda: fleet.lose(first))
    fleet.at(400.0, lambda: fleet.join("second") and None)
    results, _ = run(fleet, range(30), workers=1)
    assert items_of(results) == list(range(30))
    assert len(fleet.stopped) == 2  # the lost one, and the last one at the end


def test_workers_without_work_are_given_back_so_that_a_whole_host_becomes_free():
    long = []  # the first two items on the first host

    def does(item, host):
        if host == "a" and len(long) < 2:
            long.append(item)
            return Does(200.0)
        return Does(1.0)

    fleet = SimulatedFleet(does)
    fleet.join("a", places=4)
    fleet.join("b", places=4)
    left = []
    for when in (14.0, 100.0):
        fleet.at(when, lambda: left.append((fleet.workers_on("a"), fleet.workers_on("b"))))
    run(fleet, range(12))
    assert left[0] == (4, 4)
    assert left[1] == (2, 0)


def test_on_a_machine_of_our_own_no_worker_is_given_back():
    fleet = SimulatedFleet(lambda item, host: Does(200.0 if item == 0 else 1.0), elastic=False)
    fleet.join("a", places=4)
    left = []
    fleet.at(150.0, lambda: left.append(fleet.workers_on("a")))
    run(fleet, range(12))
    assert left == [4]


def test_what_was_asked_for_and_has_not_come_is_taken_back_when_the_items_run_out():
    fleet = SimulatedFleet(most=8)
    fleet.join("a")
    with Pool(None, fleet=fleet) as pool:
        pool.map(nothing, range(10), lambda *_: None)
        assert not fleet.pending and fleet.workers_on("a") == 1


def test_an_interrupted_job_leaves_no_demand_for_hosts_behind():
    fleet = SimulatedFleet(most=8)
    fleet.at(5.0, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with Pool(None, fleet=fleet) as pool:
        with pytest.raises(KeyboardInterrupt):
            pool.map(nothing, range(10), lambda *_: None)
        assert not fleet.pending


def test_one_worker_is_asked_for_even_where_no_host_is_known_to_come():
    fleet, told = SimulatedFleet(), []
    fleet.at(20.0, lambda: fleet.join("late", places=2) and None)
    results, _ = run(fleet, range(30), told=told)
    assert len(results) == 30 and told[0][1].startswith(
        "no worker for 15 s, waiting: 1 asked for, each needs 1 GPU;"
    )
    assert {line for _, line in told[1:]} == {
        "workers: 1 on 1 host, 1 asked for",
        "workers: 2 on 1 host, 0 asked for",
    }


def test_without_any_worker_it_waits_and_says_for_what_and_goes_on_when_a_host_comes():
    fleet, told = SimulatedFleet(most=8), []
    fleet.at(140.0, lambda: fleet.join("late") and None)
    results, failures = run(fleet, range(3), told=told)
    assert items_of(results) == [0, 1, 2] and not failures
    waits = [(when, line) for when, line in told if "waiting" in line]
    assert [round(when) for when, _ in waits] == [15, 75, 135]
    assert (
        waits[0][1]
        == "no worker for 15 s, waiting: 3 asked for, each needs 1 GPU; the cluster has room for 0 now, "
        "for 8 at most"
    )


@pytest.mark.parametrize(("elastic", "least", "most"), [(False, 9, 30), (True, 60, 90)])
def test_workers_that_never_become_ready_end_the_run(elastic, least, most):
    """After ten deaths, a second apart; on a cluster after a minute, in which a lost host would have been
    noticed."""
    fleet = SimulatedFleet(elastic=elastic)
    fleet.join("a", places=2, starts=lambda: Does(0.1, dies=True))
    with pytest.raises(
        WorkersFailed, match=r"workers died \d+ times before any was ready; .*no memory to start in"
    ):
        run(fleet, range(5))
    assert least <= fleet.now <= most


def test_deaths_on_the_way_to_ready_are_borne_while_others_work():
    fleet = SimulatedFleet(lambda item, host: Does(10.0))
    fleet.join("bad", starts=lambda: Does(0.1, dies=True))
    fleet.join("good")
    results, failures = run(fleet, range(10))
    assert items_of(results) == list(range(10)) and not failures


def test_a_host_that_cannot_start_workers_is_asked_less_and_less_often_while_others_work():
    fleet, started = SimulatedFleet(lambda item, host: Does(60.0)), []
    fleet.join("good")
    fleet.join("bad", starts=lambda: started.append(fleet.now) or Does(0.1, dies=True))
    results, _ = run(fleet, range(20))
    assert len(results) == 20 and fleet.now >= 1200.0
    pauses = [after - before for before, after in pairwise(started)]
    assert all(after > before - 1.0 for before, after in pairwise(pauses)) and pauses[-1] == pytest.approx(
        60.0, abs=1.5
    )
    assert len(started) < 30  # of 1,200 at one per second


def test_deaths_on_one_host_after_another_are_not_added_up():
    fleet = SimulatedFleet(lambda item, host: Does(1.0))
    first, second = fleet.join("bad", starts=lambda: Does(0.1, dies=True)), []
    fleet.at(40.0, lambda: fleet.lose(first))
    fleet.at(41.0, lambda: second.append(fleet.join("bad too", starts=lambda: Does(0.1, dies=True))))
    fleet.at(80.0, lambda: fleet.lose(second[0]))
    fleet.at(81.0, lambda: fleet.join("good") and None)
    results, failures = run(fleet, range(10))
    assert len(results) == 10 and not failures


def test_a_new_host_does_not_wait_for_one_that_cannot_start_workers():
    fleet = SimulatedFleet(lambda item, host: Does(10.0), most=3)
    fleet.join("good")
    fleet.join("bad", starts=lambda: Does(0.1, dies=True))
    fleet.at(300.0, lambda: fleet.join("new") and None)
    run(fleet, range(60))
    assert min(when for when, _, host in fleet.runs if host == "new") <= 306


def test_hosts_that_are_lost_while_many_workers_start_on_them_are_no_reason_to_give_up():
    fleet = SimulatedFleet(lambda item, host: Does(1.0))
    for number in range(3):
        host = fleet.join(f"lost{number}", places=16, starts=lambda: Does(60.0))
        fleet.at(10.0 + number, lambda host=host: fleet.lose(host))
    fleet.at(20.0, lambda: fleet.join("stays", places=16) and None)
    results, failures = run(fleet, range(100))
    assert len(results) == 100 and not failures


def test_it_tells_of_workers_that_come_and_go_every_two_seconds_at_most():
    fleet, told = SimulatedFleet(lambda item, host: Does(10.0), most=4), []
    fleet.join("a", places=2)
    second: list = []
    fleet.at(20.0, lambda: second.append(fleet.join("b")))
    fleet.at(50.0, lambda: fleet.lose(second[0]))
    run(fleet, range(30), told=told)
    assert [line for _, line in told[:4]] == [
        "workers: 1 on 1 host, 3 asked for",  # the second arrived a moment later
        "workers: 2 on 1 host, 2 asked for",
        "workers: 3 on 2 hosts, 1 asked for",
        "workers: 2 on 1 host, 2 asked for",
    ]
    times = [when for when, _ in told]
    assert all(later - earlier >= 2 for earlier, later in zip(times, times[1:], strict=False))

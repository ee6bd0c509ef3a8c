"""One driver trains a step at a time: the holder of the lease, drivers that wait, and detection of a lost
lease.

The store's clock is the test's, decades apart from that of this host.
"""

import threading
from collections.abc import Iterator

import pytest
from store.aging import AgingStore

from dgflow.runtime.training import lease
from dgflow.runtime.training.lease import FOLDER, Claim, Lease, Watch, is_lost
from dgflow.store.memory import MemoryStore
from dgflow.store.processes import this_process
from dgflow.store.runs import STALE_SECONDS
from dgflow.store.step_store import StepStore


@pytest.fixture
def store(request: pytest.FixtureRequest) -> AgingStore:
    return AgingStore(MemoryStore(f"lease-{abs(hash(request.node.name))}"))


@pytest.fixture
def steps(store: AgingStore) -> StepStore:
    return StepStore(store, "train-score", "a" * 64)


@pytest.fixture
def driver(steps: StepStore) -> Iterator[object]:
    """Makes drivers of different hosts, whose heartbeats are sent by the test."""
    made: list[Lease] = []

    def driver() -> Lease:
        made.append(Lease(steps, every=3600.0, process=lambda: None))
        return made[-1]

    yield driver
    for each in made:
        each.end()


def test_of_drivers_that_begin_at_once_one_trains_and_the_others_are_told_who(driver):
    drivers = [driver() for _ in range(8)]
    found: list[Claim | None] = []
    threads = [threading.Thread(target=lambda each=each: found.append(each.take())) for each in drivers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [holder] = [each for each in drivers if not each.lost]
    assert found.count(None) == 1
    assert {claim.id for claim in found if claim is not None} == {holder._claim.id}


def test_the_next_driver_waits_while_there_are_signs_of_life_and_is_told_since_when(store, driver):
    first, second = driver(), driver()
    assert first.take() is None
    for _ in range(10):
        store.clock += STALE_SECONDS - 1
        claim = second.take()
        assert claim is not None and claim.host and claim.pid
        assert claim.seconds == pytest.approx(STALE_SECONDS - 1, abs=30)  # despite the years between clocks
        first.beat()
    assert not first.lost and second.lost


def test_a_driver_that_is_silent_is_followed_and_finds_out_when_it_comes_back(store, steps, driver):
    paused, second, third = driver(), driver(), driver()
    paused.take()
    number = paused.number
    store.clock += STALE_SECONDS
    assert second.take() is None
    assert is_lost(steps, number) and not paused.lost
    assert third.take() is not None
    paused.beat()
    assert paused.lost
    claim = paused.take()
    assert claim is not None and claim.id == second._claim.id
    second.beat()
    assert not second.lost


def test_a_driver_that_ended_is_followed_at_once(store, driver):
    first, second = driver(), driver()
    first.take()
    first.end()
    assert second.take() is None
    assert second.number == first.number + 1


def test_a_driver_of_this_host_whose_process_is_gone_is_followed_at_once(steps, driver):
    here = this_process()
    assert here is not None
    killed = Lease(steps, every=3600.0, process=lambda: here.model_copy(update={"start": here.start - 1}))
    assert killed.take() is None
    assert driver().take() is None
    killed.beat()
    assert killed.lost


def test_a_living_process_of_this_host_is_waited_for_until_it_is_silent(store, steps, driver):
    first = Lease(steps, every=3600.0)
    first.take()
    assert driver().take() is not None
    store.clock += STALE_SECONDS  # the driver may be stopped, or hang
    assert driver().take() is None
    first.end()


def test_a_claim_that_cannot_be_read_is_judged_by_its_age(store, steps, driver):
    store.put(f"{steps.name}/attempts/{FOLDER}-00003.json", b"{}")
    first = driver()
    assert first.take() is not None
    store.clock += STALE_SECONDS
    assert first.take() is None
    assert (first.number, sorted(steps.noted(FOLDER))) == (4, [4])


def test_the_thread_gives_signs_and_a_worker_sees_a_newer_claim(store, steps, driver):
    beats = threading.Event()

    class Beating(Lease):
        def beat(self) -> None:
            super().beat()
            beats.set()

    first = Beating(steps, every=0.01, process=lambda: None)
    first.take()
    assert beats.wait(30)
    watch = Watch(steps, first.number, every=0.01)
    first.end()
    assert not watch.lost
    second = driver()
    second.take()
    watch._thread.join(30)
    assert watch.lost
    assert lease.FOLDER == "drivers"

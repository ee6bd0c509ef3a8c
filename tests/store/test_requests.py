"""The number of S3 requests per shard, counted on the wire: each costs money and waiting time."""

import os
import uuid
from collections import Counter
from collections.abc import Iterator

import pytest
from cluster.faulty_proxy import FaultyProxy, faulty_proxy
from store.step_examples import DOCUMENT, INPUTS, ROWS, step, write

from dgflow.engine.gc import collect
from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store
from dgflow.store.step_store import StepStore

SHARDS = 30


@pytest.fixture
def proxy(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    with faulty_proxy(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture
def store(s3_url: str, proxy: FaultyProxy) -> ObjectStore:
    return open_store(f"{s3_url}-{uuid.uuid4().hex}")


def work(steps: StepStore, shards: int) -> None:
    """Make shards like a worker (`dgflow/engine/shard_work.py`)."""
    for number in range(shards):
        if not steps.is_committed("shards", number, INPUTS):
            steps.note_attempt("shards", number, {"host": "a", "pid": 1})
            write(steps, number)


def seal(steps: StepStore, shards: int) -> None:
    """Seal a slice like the driver at the end of a step, with all keys known."""
    steps.seal(0, shards * ROWS, INPUTS, [steps.key("shards", number, INPUTS) for number in range(shards)])


def counted(proxy: FaultyProxy, call, *arguments) -> Counter[str]:
    before = proxy.requests.copy()
    call(*arguments)
    return proxy.requests - before


def test_a_shard_takes_three_writes_and_one_look_and_no_listing(
    store: ObjectStore, proxy: FaultyProxy
) -> None:
    steps = step(store)
    assert counted(proxy, work, steps, SHARDS) == {
        "PUT": 3 * SHARDS,
        "HEAD": SHARDS,
    }  # note, data, receipt; is it committed?


def test_a_shard_that_is_there_takes_one_look(store: ObjectStore, proxy: FaultyProxy) -> None:
    steps = step(store)
    work(steps, SHARDS)
    assert counted(proxy, work, steps, SHARDS) == {"HEAD": SHARDS}


def test_sealing_reads_each_receipt_once_and_lists_once(store: ObjectStore, proxy: FaultyProxy) -> None:
    steps = step(store)
    work(steps, SHARDS)
    assert counted(proxy, seal, steps, SHARDS) == {"GET": SHARDS, "LIST": 1, "PUT": 1}


@pytest.mark.parametrize("shards", [2, SHARDS])
def test_looking_at_a_step_takes_the_same_requests_however_many_shards_it_has(
    store: ObjectStore, proxy: FaultyProxy, shards: int
) -> None:
    steps = step(store)
    steps.declare(DOCUMENT)
    work(steps, shards)
    seal(steps, shards)

    def look() -> None:
        steps.check(DOCUMENT)
        assert len(steps.done("shards", INPUTS)) == shards
        assert steps.manifest(0, shards * ROWS, INPUTS) is not None

    assert counted(proxy, look) == {"GET": 2, "LIST": 1}


def test_gc_lists_a_step_once(store: ObjectStore, proxy: FaultyProxy) -> None:
    steps = step(store)
    steps.declare(DOCUMENT)
    work(steps, SHARDS)
    found = counted(proxy, lambda: collect(store, delete=False, tell=lambda _: None))
    assert found == {"HEAD": 1, "GET": 1, "LIST": 2}  # the time; step.json; the root's names and the step


def test_the_time_takes_one_look(store: ObjectStore, proxy: FaultyProxy) -> None:
    assert counted(proxy, store.now) == {"HEAD": 1}

"""The object store fails while a run samples: the run ends successfully, with every index once and the bits
of an undisturbed run.

A driver with its own Ray and two workers, on loopback, and a proxy between them and a real S3 server.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from cluster import store_driver
from cluster.disturbed import digests, made_here, sealed_indices, store_of
from cluster.faulty_proxy import FaultyProxy, faulty_proxy
from cluster.hosts import Process
from inprocess import complete
from seaweed import Server

from dgflow.store.open import open_store

DEADLINE = 300.0  # timeout of a run, which takes some 25 s on an idle machine
OUTAGE = 30.0  # seconds: longer than the 15.5 for which a store that never answered is retried


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Starts a server, whose client this process is: directly, and not through the proxy."""
    server = Server(tmp_path_factory.mktemp("s3"))
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server
    server.kill()


@pytest.fixture(scope="module")
def trained(server: Server, images: Path) -> str:
    """Returns a root with a trained network."""
    root = f"{server.environment['BUCKET_URL']}/trained"
    complete(tiny.score(images), open_store(root))
    return root


@pytest.fixture(scope="module")
def undisturbed(trained: str, images: Path) -> dict[int, str]:
    """Returns the digests of the shards that this process makes, by number."""
    root = made_here(store_driver.target(images), copied(trained, "undisturbed"))
    return digests(root, store_driver.samples(images))


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultyProxy]:
    with faulty_proxy(server.environment["AWS_ENDPOINT_URL"]) as proxy:
        yield proxy


class Run:
    """A run through the proxy that has committed three shards, on its own root."""

    def __init__(self, root: str, source: Path, process: Process) -> None:
        self.root, self.samples, self.process = root, store_driver.samples(source), process
        self.process.wait_for(lambda: len(self.committed()) >= 3, "third shard", DEADLINE)

    def committed(self) -> dict[int, dict[str, str]]:
        return store_of(self.root, self.samples).committed("shards")

    def has_more_to_do(self) -> bool:
        return len(self.committed()) < store_driver.SHARDS - 5

    def ends_as(self, undisturbed: dict[int, str]) -> None:
        self.process.finish(DEADLINE)
        assert digests(self.root, self.samples) == undisturbed
        assert sealed_indices(self.root, self.samples) == list(
            range(self.samples.shard_size * store_driver.SHARDS)
        )


@pytest.fixture
def run(
    proxy: FaultyProxy,
    trained: str,
    images: Path,
    undisturbed: dict[int, str],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Run]:
    del undisturbed  # is made before, and not concurrently
    root = copied(trained, request.node.name)
    process = drive(root, images, tmp_path / "log", proxy.url)
    try:
        yield Run(root, images, process)
    finally:
        process.kill()


def copied(root: str, name: str) -> str:
    """Returns another root with the same objects."""
    other = f"{root.rsplit('/', 1)[0]}/{name}"
    source, target = open_store(root), open_store(other)
    for entry in source.list(""):
        target.put(entry.key, source.get(entry.key))
    return other


def drive(root: str, source: Path, log: Path, endpoint: str) -> Process:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"OMP_NUM_THREADS": "1", "AWS_ENDPOINT_URL": endpoint}
    return Process([sys.executable, store_driver.__file__, root, str(source)], environment, log)


def test_a_store_that_refuses_all_connections_for_a_while_is_waited_for(
    run: Run, proxy: FaultyProxy, undisturbed: dict[int, str]
) -> None:
    proxy.refuse()
    up_again = time.monotonic() + OUTAGE
    run.process.wait_for(lambda: time.monotonic() > up_again, "end of the outage")
    assert run.has_more_to_do()  # those that waited
    proxy.accept()
    run.ends_as(undisturbed)
    assert "attempt 1 of 3" not in run.process.output  # no worker's shard counted as failed


def test_a_slow_store_costs_time_and_nothing_else(
    run: Run, proxy: FaultyProxy, undisturbed: dict[int, str]
) -> None:
    proxy.latency, proxy.rate = 0.2, 20_000
    assert run.has_more_to_do()
    run.ends_as(undisturbed)


def test_half_of_the_requests_answered_with_slow_down_cost_time_and_nothing_else(
    run: Run, proxy: FaultyProxy, undisturbed: dict[int, str]
) -> None:
    proxy.busy = 0.5
    assert run.has_more_to_do()
    run.ends_as(undisturbed)
    assert proxy.refused > 20


def test_puts_that_are_cut_in_the_middle_leave_nothing_and_are_sent_again(
    run: Run, proxy: FaultyProxy, undisturbed: dict[int, str]
) -> None:
    proxy.cuts = 7
    run.ends_as(undisturbed)
    assert proxy.cut == 7


def test_a_server_that_is_killed_in_the_middle_of_a_put_and_started_again_has_what_was_committed(
    run: Run, proxy: FaultyProxy, undisturbed: dict[int, str], server: Server
) -> None:
    before = run.committed()
    proxy.meanwhile, proxy.cuts = server.kill, 1
    run.process.wait_for(lambda: proxy.cut == 1, "put that is cut")
    server.start()
    assert before.items() <= run.committed().items()
    run.ends_as(undisturbed)

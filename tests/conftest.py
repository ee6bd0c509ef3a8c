"""Fixtures shared by all tests: a separate cache per session, an S3 server, a Ray, and the marks `ray` and
`smoke`.

Under pytest-xdist every process of the tests has one of each.
"""

import gc
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from seaweed import seaweed

from dgflow.store import s3
from dgflow.store.open import open_store

TESTS = Path(__file__).parent
LONGEST = (
    "e2e",
    "test_cli.py",
    "test_security.py",
    "runtime/test_pool.py",
    "steps",
    "parity/test_metric_end_to_end.py",
    "store/test_store_patience.py",
    "test_tool.py",
)
"""Files and folders that take longest: they come first, so that no process is left alone with one of them."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep what is imported and collected, a million objects, out of all garbage collections: looking through
    them took a fifth of the time of collecting and a sixth of that of the tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files without a slow test where only these are asked for: to import all files takes each
    process half a minute."""
    if config.option.markexpr != "slow" or collection_path.suffix != ".py":
        return None
    return True if "mark.slow" not in collection_path.read_text() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"local_ray", "own_ray"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("ray")
        if item.path.is_relative_to(TESTS / "e2e") and item.path.name.startswith("test_smoke"):
            item.add_marker("smoke")
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    places = [number for number, name in enumerate(LONGEST) if item.path.is_relative_to(TESTS / name)]
    return min(places, default=len(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Copies of weight files go to a folder of the session and not into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def local_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray as a run on one machine starts it, for all tests in this process that need some Ray."""
    import ray

    from dgflow.runtime.cluster import connect

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "1000")  # by default 10 s: nobody waits for it here
        connect(open_store(str(tmp_path_factory.mktemp("root"))))
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def own_ray() -> None:
    """Asked for by what starts a Ray in a process of its own: the mark `ray` follows from it."""


@pytest.fixture(scope="session")
def s3_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A running server's environment, see `seaweed`."""
    with seaweed(tmp_path_factory.mktemp("s3")) as environment:
        yield environment


@pytest.fixture
def s3_url(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty prefix of the running server, with its credentials in the environment and short pauses between
    repetitions."""
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3, "BACK_OFF", (0.01,) * 5)
    return f"{s3_environment['BUCKET_URL']}/{uuid.uuid4().hex}"

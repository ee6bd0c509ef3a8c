"""Stores for the tests of this folder: one S3 server for all of them, and a fresh, empty place in it for each
test."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from seaweed import seaweed

from dgflow.store import s3
from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store
from dgflow.store.s3 import S3Store


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


@pytest.fixture(scope="session")
def s3_connections() -> dict[int, Any]:
    """One connection for all tests that use the same credentials: each costs a fifth of a second of
    computing."""
    return {}


@pytest.fixture
def s3_store(s3_url: str, s3_connections: dict[int, Any]) -> ObjectStore:
    """An empty store on the running server."""
    store = S3Store(s3_url.removeprefix("s3://"))
    store._connections = s3_connections
    return store


@pytest.fixture(params=["memory", "local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty store of each backend in turn."""
    if request.param == "s3":
        return request.getfixturevalue("s3_store")
    return open_store(f"memory://{uuid.uuid4().hex}" if request.param == "memory" else str(tmp_path / "root"))

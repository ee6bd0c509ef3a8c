"""Stores for the tests of this folder: a fresh, empty one for each test."""

import uuid
from pathlib import Path
from typing import Any

import pytest

from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store
from dgflow.store.s3 import S3Store


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

"""A file server for each test, short pauses between attempts, and no proxy on the way to loopback."""

from collections.abc import Iterator

import pytest
from weights.file_server import FileServer, file_server

from dgflow.weights import https


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(https, "BACK_OFF", (0.001,) * 3)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with file_server() as served:
        yield served

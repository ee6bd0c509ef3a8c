"""Errors that Ray would report after minutes, or without a variable's name, are found in seconds."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dgflow.runtime import machine, ray_private
from dgflow.runtime.machine import check_address, check_local
from dgflow.weights.scratch import scratch_folder


@contextmanager
def server(answer: Callable[[socket.socket], object]) -> Iterator[str]:
    """Returns the address of a server that calls this with every connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            try:
                while True:
                    connection = listener.accept()[0]
                    with connection:
                        answer(connection)
            except OSError:
                return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def grpc(connection: socket.socket) -> None:
    connection.sendall(b"\0\0\0\4\0\0\0\0\0")
    connection.recv(64)


def silent(connection: socket.socket) -> None:
    while connection.recv(64):
        pass


@pytest.fixture
def nowhere() -> str:
    """Returns an address without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_answers_is_taken(scheme: str) -> None:
    with server(grpc) as address:
        check_address(scheme + address)


def test_an_address_where_nothing_listens_is_told_with_the_variable(nowhere: str) -> None:
    for address in (nowhere, f"ray://{nowhere}"):
        with pytest.raises(ValueError, match=f"RAY_ADDRESS={address}, found nothing that answers .*unset it"):
            check_address(address)


@pytest.mark.parametrize(
    "answer",
    [silent, lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), socket.socket.close],
)
def test_a_port_of_something_else_is_told_in_time(monkeypatch, answer) -> None:
    monkeypatch.setattr(machine, "ANSWER_SECONDS", 0.2)
    with server(answer) as address:
        began = time.monotonic()
        with pytest.raises(
            ValueError, match=f"RAY_ADDRESS={address}, found (a server that is not Ray|nothing that)"
        ):
            check_address(address)
    assert time.monotonic() - began < 5


def test_auto_without_a_cluster_and_with_one_that_has_ended(monkeypatch, nowhere: str) -> None:
    monkeypatch.setattr(ray_private, "running_cluster", lambda: None)
    with pytest.raises(ValueError, match="RAY_ADDRESS=auto says, found none; start one"):
        check_address("auto")
    monkeypatch.setattr(ray_private, "running_cluster", lambda: nowhere)
    with pytest.raises(
        ValueError,
        match=f"RAY_ADDRESS=auto, which is {nowhere} .*ray_current_cluster .*, found nothing that answers",
    ):
        check_address("auto")


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ("http://127.0.0.1:8265", "the address of its dashboard"),
        ("10.0.0.1", "RAY_ADDRESS=host:port"),
        ("10.0.0.1:port", "RAY_ADDRESS=host:port"),
        ("10.0.0.1:99999", "RAY_ADDRESS=host:port"),
        ("head.invalid:6379", "RAY_ADDRESS=head.invalid:6379, found nothing"),
    ],
)
def test_what_is_no_address_of_a_cluster_is_refused(address: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        check_address(address)


@pytest.fixture
def usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sets a home folder and a folder for temporary files, short enough for sockets."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_folder_too_long_for_sockets_is_told_with_its_length(
    usable: Path, monkeypatch, variable: str
) -> None:
    check_local()
    monkeypatch.setenv(variable, str(usable / ("x" * 60)))
    with pytest.raises(ValueError, match=rf"expected {variable} of at most \d\d bytes, for Ray's sockets"):
        check_local()
    assert not (usable / ("x" * 60)).exists()


def test_a_temporary_folder_that_cannot_be_made_is_told(usable: Path, monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", "/dev/null/tmp")
    with pytest.raises(ValueError, match="at TMPDIR=/dev/null/tmp, .*set RAY_TMPDIR"):
        check_local()


def test_a_home_folder_that_cannot_be_written_to_is_told_unless_a_token_is_given(
    usable: Path, monkeypatch
) -> None:
    monkeypatch.setenv("HOME", "/dev/null/home")
    with pytest.raises(
        ValueError, match="HOME=/dev/null/home cannot be used .*; set HOME to a writable folder"
    ):
        check_local()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 32)
    check_local()


def test_a_token_that_is_there_needs_no_home_that_can_be_written_to(usable: Path, monkeypatch) -> None:
    (usable / ".ray").mkdir()
    (usable / ".ray" / "auth_token").write_text("0" * 32)
    monkeypatch.setattr("pathlib.Path.mkdir", lambda *_, **__: pytest.fail("the home folder is written to"))
    check_local()


def test_a_user_without_a_home_folder_is_told(usable: Path, monkeypatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    with pytest.raises(ValueError, match="found neither HOME nor an entry for this user"):
        check_local()
    with pytest.raises(RuntimeError, match="set XDG_CACHE_HOME to a folder"):
        scratch_folder()

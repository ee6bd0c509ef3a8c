"""A store that falls silent: one that has answered before is waited for, one that never did is not.

And TLS.
"""

import logging
import os
import pickle
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.faulty_proxy import FaultyProxy, faulty_proxy
from seaweed import Server

from dgflow.store import s3
from dgflow.store.objects import ObjectStore, StoreError
from dgflow.store.open import open_store

pytestmark = pytest.mark.filterwarnings(
    "ignore:Unverified HTTPS request"
)  # of the server's own readiness check


@pytest.fixture
def proxy(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    with faulty_proxy(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setattr(s3, "BACK_OFF", (0.05,) * 5)
        monkeypatch.setattr(s3, "_LONGEST_PAUSE", 0.2)
        yield proxy


@pytest.fixture
def store(s3_url: str, proxy: FaultyProxy) -> ObjectStore:
    return open_store(s3_url)


def silences(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "dgflow.store.s3" and record.levelno == logging.WARNING
    ]


def test_a_store_that_has_answered_is_waited_for_and_it_is_said_once(
    store: ObjectStore, proxy: FaultyProxy, caplog: pytest.LogCaptureFixture
) -> None:
    store.put("a", b"x")
    proxy.refuse()
    reader = threading.Thread(target=lambda: read.append(store.get_many(["a"] * 8)))
    read: list[list[bytes]] = []
    reader.start()
    while not silences(caplog):
        assert reader.is_alive()
        reader.join(0.01)
    proxy.accept()
    reader.join(30)
    assert read == [[b"x"] * 8]
    begins, ends = silences(caplog)
    assert begins.startswith(f"{store.url} does not answer (") and begins.endswith(
        "waiting up to 300 s for it"
    )
    assert ends.startswith(f"{store.url} answers again, ")


def test_a_worker_waits_for_the_store_that_answered_its_driver(
    store: ObjectStore, proxy: FaultyProxy
) -> None:
    store.put("a", b"x")
    pickled = pickle.dumps(store)
    proxy.refuse()
    answers: list[bytes] = []
    worker = threading.Thread(target=lambda: answers.append(pickle.loads(pickled).get("a")))
    worker.start()
    worker.join(
        1.5
    )  # all that one which never answered would be given is 0.05 s, five times, doubled at most
    assert worker.is_alive()
    proxy.accept()
    worker.join(30)
    assert answers == [b"x"]


def test_patience_ends_and_the_next_request_is_given_as_much(
    store: ObjectStore, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PATIENCE", 1.5)
    store.put("a", b"x")
    proxy.refuse()
    for _ in range(2):
        with pytest.raises(StoreError, match=rf"{proxy.url} does not answer after \d+ attempts in [12] s"):
            store.get("a")
    proxy.accept()
    assert store.get("a") == b"x"


def test_a_store_that_never_answered_is_not_waited_for(store: ObjectStore, proxy: FaultyProxy) -> None:
    proxy.refuse()
    with pytest.raises(StoreError, match=rf"{proxy.url} does not answer after 6 attempts \("):
        store.get("a")


def test_what_is_missing_and_what_is_denied_is_told_at_once(
    store: ObjectStore, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a", b"x")
    before = proxy.requests.copy()
    with pytest.raises(FileNotFoundError):
        store.get("b")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreError, match="access denied"):
        open_store(store.url).get("a")
    assert proxy.requests - before == {"GET": 2}


def test_most_requests_answered_with_slow_down_cost_time_and_nothing_else(
    store: ObjectStore, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("first", b"x")
    monkeypatch.setattr(s3, "_LONGEST_PAUSE", 0.02)
    proxy.busy = 0.7
    for i in range(20):
        assert store.create(f"receipts/{i}", b"%d" % i)
    assert store.get_many([f"receipts/{i}" for i in range(20)]) == [b"%d" % i for i in range(20)]
    assert len(store.list("receipts")) == 20
    assert proxy.refused > 20


@pytest.mark.parametrize("size", [100_000, 20_000_000])
def test_a_body_that_is_cut_in_the_middle_leaves_nothing_and_is_sent_again(
    store: ObjectStore, proxy: FaultyProxy, size: int
) -> None:
    store.put("first", b"x")
    proxy.cuts = 2
    store.put("data", data := os.urandom(size))
    assert proxy.cut == 2
    assert store.get("data") == data


@pytest.mark.parametrize("attempted", ["read a", "write b", "create b", "look up a", "list all"])
def test_a_server_that_takes_requests_and_says_nothing_is_left_after_a_time(
    store: ObjectStore, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, attempted: str
) -> None:
    monkeypatch.setattr(s3, "_SILENT_SECONDS", 1)
    monkeypatch.setattr(s3, "BACK_OFF", ())
    proxy.silent = True
    attempt = {
        "read a": lambda: store.get("a"),
        "write b": lambda: store.put("b", bytes(3_000_000)),
        "create b": lambda: store.create("b", bytes(3_000_000)),
        "look up a": lambda: store.size("a"),
        "list all": lambda: store.list(""),
    }[attempted]
    monkeypatch.setattr(s3, "_SLOWEST", 100e6)
    with pytest.raises(
        StoreError,
        match=f"could not {attempted} in {store.url}: {proxy.url} does not answer after 1 attempts",
    ):
        attempt()


@pytest.mark.parametrize(
    "endpoint", ["http://10.99.0.2:8333", "http://minio.lan", "HTTP://storage.example.org/x"]
)
def test_an_endpoint_without_tls_is_refused_before_any_request(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(
        ValueError,
        match=r"expected an endpoint of S3 that begins with https://, found (http|HTTP)://.*set "
        r"DGFLOW_PLAIN_HTTP=1",
    ):
        open_store(s3_url).get("a")


def test_an_endpoint_without_tls_in_the_configuration_file_is_refused(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("[default]\nendpoint_url = http://10.99.0.2:8333\n")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(ValueError, match=r"found http://10.99.0.2:8333"):
        open_store(s3_url).get("a")


def test_an_endpoint_without_tls_is_used_where_it_is_allowed(
    s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DGFLOW_PLAIN_HTTP", "1")
    monkeypatch.setattr(s3, "BACK_OFF", ())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://no-such-host.invalid:{taken.getsockname()[1]}")
        with pytest.raises(StoreError, match="no-such-host.invalid:.* does not answer"):
            open_store(s3_url).get("a")


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server with a certificate that it made itself, and the file of that certificate."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    names = [
        "-subj",
        "/CN=dgflow tests",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-addext",
        "basicConstraints=critical,CA:TRUE",
    ]
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-keyout",
        key,
        "-out",
        certificate,
        *names,
    ]
    subprocess.run(made, check=True, capture_output=True)
    server = Server(folder, scheme="https", options=[f"-s3.cert.file={certificate}", f"-s3.key.file={key}"])
    server.start()
    yield server, certificate
    server.kill()


@pytest.fixture
def tls_url(tls_server: tuple[Server, Path], monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in tls_server[0].environment.items():
        monkeypatch.setenv(name, value)
    return f"{tls_server[0].environment['BUCKET_URL']}/tls"


def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(
    tls_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "BACK_OFF", (60.0,))
    with pytest.raises(
        StoreError,
        match=r"the certificate of https://127.0.0.1:\d+ is not trusted \(self.signed certificate\); "
        r".*AWS_CA_BUNDLE",
    ):
        open_store(tls_url).put("a", b"x")


def test_a_certificate_is_accepted_with_its_authority(
    tls_server: tuple[Server, Path], tls_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tls_server[1]))
    store = open_store(tls_url)
    store.put("a", b"x")
    assert store.create("b", b"y")
    assert [entry.key for entry in store.list("")] == ["a", "b"]


def test_a_bundle_that_is_not_there_is_named(
    tls_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    with pytest.raises(
        ValueError, match=r"expected a file of certificates at .*/missing.pem, which AWS_CA_BUNDLE names"
    ):
        open_store(tls_url).get("a")

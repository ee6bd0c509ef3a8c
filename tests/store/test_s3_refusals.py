"""Refusals by an S3 service: reported at once with the variable to set, and retried if credentials may be
renewed.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore import exceptions as boto
from store.tiny_s3 import TinyS3, tiny_s3

from dgflow.cli.root import open_root
from dgflow.store import s3
from dgflow.store.local import LocalStore
from dgflow.store.memory import MemoryStore
from dgflow.store.objects import StoreError, StoreRefusal
from dgflow.store.open import open_store
from dgflow.store.s3_endpoint import check_endpoint
from dgflow.store.s3_errors import is_of_credentials

URL = "s3://bucket/root"


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[TinyS3, dict[int, Any]]]:
    """One server, and a connection to it: each costs a fifth of a second."""
    with tiny_s3() as server:
        yield server, {}


@pytest.fixture
def server(running: tuple[TinyS3, dict[int, Any]], monkeypatch: pytest.MonkeyPatch) -> TinyS3:
    server = running[0]
    environment = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server.url,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3, "BACK_OFF", (0.01,) * 2)
    monkeypatch.setattr(s3, "_LONGEST_PAUSE", 0.05)
    server.objects, server.exclusive, server.answer = {}, True, lambda verb, headers: None
    return server


@pytest.fixture
def store(running: tuple[TinyS3, dict[int, Any]], server: TinyS3) -> s3.S3Store:
    store = s3.S3Store("bucket/root")
    store._connections = running[1]
    return store


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        (
            (301, "PermanentRedirect", {"x-amz-bucket-region": "eu-west-1"}),
            "set AWS_DEFAULT_REGION=eu-west-1",
        ),
        ((301, "PermanentRedirect", {}), "set AWS_DEFAULT_REGION to the bucket's region"),
        (
            (400, "AuthorizationHeaderMalformed", {"x-amz-bucket-region": "eu-west-1"}),
            "set AWS_DEFAULT_REGION=eu-west-1",
        ),
        ((400, "IllegalLocationConstraintException", {}), "AWS_DEFAULT_REGION"),
        ((501, "NotImplemented", {}), "conditional writes .*AWS_ENDPOINT_URL"),
        ((403, "InvalidAccessKeyId", {}), r"access denied .*AWS_ACCESS_KEY_ID"),
        ((403, "AccessDenied", {}), r"access denied \(AccessDenied\).*in bucket 'bucket'"),
        ((400, "ExpiredToken", {}), "the credentials have expired .*AWS_SESSION_TOKEN"),
        ((404, "NoSuchBucket", {}), "there is no bucket 'bucket'"),
        ((405, "MethodNotAllowed", {}), "AWS_ENDPOINT_URL is the address of an S3 server"),
        ((507, "QuotaExceeded", {}), "the storage is full"),
    ],
)
def test_what_no_repetition_mends_is_told_at_once_with_the_variable(
    server: TinyS3, store: s3.S3Store, reply: tuple[int, str, dict[str, str]], named: str
) -> None:
    server.answer = lambda verb, headers: reply
    for attempt in (lambda: store.get("a"), lambda: store.create("a", b"x"), lambda: store.list("")):
        server.requests.clear()
        with pytest.raises(StoreRefusal, match=named):
            attempt()
        # botocore follows a bucket to its region; where none is named, it asks until the stack is full
        assert len(server.requests) <= (400 if reply == (301, "PermanentRedirect", {}) else 4)


def test_a_server_that_ignores_exclusive_writes_is_refused_as_a_root(server: TinyS3) -> None:
    server.exclusive = False
    for _ in range(2):  # a new root, and one that is there
        with pytest.raises(StoreRefusal, match=r"If-None-Match: \*.*committed twice; use a store that"):
            open_root(URL)
        assert list(server.objects) == ["/bucket/root/dgflow.json"]
    server.exclusive = True
    assert open_root(URL).names() is not None
    assert list(server.objects) == ["/bucket/root/dgflow.json"]


def test_a_disk_that_replaces_by_a_link_is_refused_as_a_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems in user space map a link to a rename."""
    monkeypatch.setattr("os.link", lambda source, target: Path(target).write_bytes(Path(source).read_bytes()))
    with pytest.raises(StoreRefusal, match="a disk a hard link"):
        open_root(str(tmp_path / "root"))


def test_stores_that_create_once_are_opened_and_stay_as_they_are(tmp_path: Path) -> None:
    store = open_root(str(tmp_path / "root"))
    before = store.list("")
    assert isinstance(store, LocalStore) and open_root(str(tmp_path / "root")).list("") == before
    assert isinstance(open_root("memory://opened-once"), MemoryStore)


@pytest.mark.parametrize("code", ["ExpiredToken", "RequestExpired"])
def test_credentials_that_expire_are_waited_for_where_the_store_has_taken_some(
    server: TinyS3, store: s3.S3Store, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    store.put("a", b"x")
    refused = [(400, code, {})] * 4
    server.answer = lambda verb, headers: refused.pop() if refused else None
    assert store.get("a") == b"x"
    warnings = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert "no valid credentials for" in warnings[0] and "answers again" in warnings[-1]


def test_credentials_that_come_back_into_their_file_are_read_again(
    server: TinyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = tmp_path / "credentials"

    def give(key: str) -> None:
        credentials.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\n")

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    give("first")
    store = open_store(URL)
    store.put("a", b"x")

    def expired(verb: str, headers: dict[str, str]):
        if "first/" in headers["authorization"]:
            give("second")
            return 400, "ExpiredToken", {}
        return None

    server.answer = expired
    assert store.get("a") == b"x"


@pytest.mark.parametrize(
    "error",
    [
        boto.NoCredentialsError(),
        boto.CredentialRetrievalError(provider="sso", error_msg="no network"),
        boto.MetadataRetrievalError(error_msg="timed out"),
        boto.TokenRetrievalError(provider="sso", error_msg="no network"),
        boto.UnauthorizedSSOTokenError(),
        boto.ClientError({"Error": {"Code": "Throttled"}}, "AssumeRoleWithWebIdentity"),
        RuntimeError("Credentials were refreshed, but the refreshed credentials are still expired."),
    ],
)
def test_a_failed_renewal_is_waited_for_in_a_process_that_had_credentials_and_told_at_once_in_another(
    store: s3.S3Store, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    assert is_of_credentials(error)
    store.put("a", b"x")
    filesystem, failures = store._filesystem, [error] * 5

    def failing():
        if failures:
            raise failures.pop()
        return filesystem()

    monkeypatch.setattr(store, "_filesystem", failing)
    assert store.get("a") == b"x" and failures == []
    other = s3.S3Store("bucket/root")
    other._answered = True  # as it is pickled for a worker whose host has none
    failures.append(error)
    monkeypatch.setattr(other, "_filesystem", failing)
    with pytest.raises(StoreRefusal, match="found no"):
        other.get("a")


def test_credentials_that_do_not_come_back_end_the_wait(
    server: TinyS3, store: s3.S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PATIENCE", 0.2)
    store.put("a", b"x")
    server.answer = lambda verb, headers: (400, "ExpiredToken", {})
    with pytest.raises(StoreError, match="the credentials have expired"):
        store.get("a")


@pytest.mark.parametrize(
    ("endpoint", "meant"),
    [
        ("localhost:9000", "http://localhost:9000"),
        ("127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("minio.example.org", "https://minio.example.org"),
        ("minio.example.org:9000/", "https://minio.example.org:9000/"),
        ("//minio.example.org", "https://minio.example.org"),
        ("https:/minio.example.org", "https://minio.example.org"),
        ("s3://minio.example.org", "https://minio.example.org"),
        (" https://minio.example.org", "https://minio.example.org"),
    ],
)
@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_endpoint_that_is_no_url_is_refused_with_the_likely_one(
    server: TinyS3, monkeypatch: pytest.MonkeyPatch, variable: str, endpoint: str, meant: str
) -> None:
    monkeypatch.setenv(variable, endpoint)
    with pytest.raises(ValueError) as raised:
        open_store(URL).get("a")
    assert f"expected {variable} of the form" in str(raised.value)
    assert str(raised.value).endswith(f"found {endpoint!r}: did you mean {meant}?")


def test_a_server_without_tls_behind_https_is_told_at_once(
    server: TinyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "BACK_OFF", (60.0,))
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url.replace("http://", "https://"))
    with pytest.raises(StoreRefusal, match="answers without TLS; correct AWS_ENDPOINT_URL"):
        open_store(URL).get("a")


def test_endpoints_that_are_urls_are_taken() -> None:
    for endpoint in (
        None,
        "https://minio.example.org:9000",
        "http://[::1]:9000",
        "https://x.example.org/storage/s3",
    ):
        check_endpoint(endpoint)

"""S3, on a real server: the suite, lost replies, and the errors of a service."""

import os
import pickle
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from store.lossy_proxy import LossyProxy, lossy_proxy
from store.store_suite import StoreSuite, attempts

from dgflow.cli.root import existing_root, open_root
from dgflow.store.objects import ObjectStore, StoreError
from dgflow.store.open import open_store
from dgflow.store.s3 import S3Store


class TestS3Store(StoreSuite):
    races, racers = 1, 5  # SeaweedFS makes those who contend for a key wait for whole seconds

    @pytest.fixture
    def store(self, s3_store: ObjectStore) -> ObjectStore:
        return s3_store


@pytest.fixture
def proxy(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[LossyProxy]:
    with lossy_proxy(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


def test_an_s3_store_is_shared_and_its_url_opens_it_again(s3_url: str) -> None:
    store = open_store(f"{s3_url}//deep/")
    store.put("a", b"x")
    assert (store.url, store.shared) == (f"{s3_url}/deep", True)
    assert open_store(store.url).get("a") == b"x"
    assert [entry.key for entry in open_store(s3_url).list("")] == ["deep/a"]


def test_a_listing_of_more_than_one_page_is_whole(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = S3Store(s3_url.removeprefix("s3://"))
    for i in range(7):
        store.put(f"folder/{i}", b"x")
    filesystem = store._filesystem()
    call = filesystem.call_s3
    pages = 0

    def small_pages(method: str, **arguments: Any) -> Any:
        nonlocal pages
        pages += 1
        return call(method, **arguments, MaxKeys=3)

    monkeypatch.setattr(filesystem, "call_s3", small_pages)
    assert [entry.key for entry in store.list("folder")] == [f"folder/{i}" for i in range(7)]
    assert pages == 3


def test_a_create_whose_reply_was_lost_is_known_as_ours(s3_url: str, proxy: LossyProxy) -> None:
    store = open_store(s3_url)
    proxy.lose = 1
    assert store.create("receipt", b"ours") is True
    assert proxy.lost == 1
    assert store.get("receipt") == b"ours"


def test_a_create_whose_every_reply_was_lost_is_known_as_ours(s3_url: str, proxy: LossyProxy) -> None:
    proxy.lose = 6
    assert open_store(s3_url).create("receipt", b"ours") is True
    assert proxy.lost == 6


def test_a_lost_reply_to_a_lost_race_is_still_a_loss(s3_url: str, proxy: LossyProxy) -> None:
    store = open_store(s3_url)
    store.put("receipt", b"theirs")
    proxy.lose = 1
    assert store.create("receipt", b"ours") is False
    assert store.get("receipt") == b"theirs"


def test_a_put_whose_reply_was_lost_is_repeated(s3_url: str, proxy: LossyProxy) -> None:
    store = open_store(s3_url)
    proxy.lose = 2
    store.put("data", b"x" * 300_000)
    assert proxy.lost == 2
    assert store.get("data") == b"x" * 300_000


def test_a_busy_service_is_asked_again(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = S3Store(s3_url.removeprefix("s3://"))
    filesystem = store._filesystem()
    pipe_file, replies = filesystem.pipe_file, iter([503, 409, 500])

    def busy(*arguments: Any, **options: Any) -> Any:
        for status in replies:
            raise OSError("busy") from ClientError(
                {"Error": {"Code": "x"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject"
            )
        return pipe_file(*arguments, **options)

    monkeypatch.setattr(filesystem, "pipe_file", busy)
    assert store.create("a", b"x") is True
    assert list(replies) == []


def test_a_receipt_too_large_for_one_request_is_refused(s3_url: str) -> None:
    with pytest.raises(ValueError, match="expected at most 67108864 bytes"):
        open_store(s3_url).create("large", bytes(64 * 2**20 + 1))


def test_missing_credentials_say_what_to_set(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    for attempted, attempt in attempts(open_store(s3_url)).items():
        with pytest.raises(
            StoreError,
            match=f"could not {attempted} in {s3_url}: found no credentials; set AWS_ACCESS_KEY_ID and",
        ):
            attempt()


def test_wrong_credentials_are_an_access_error(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    for attempted, attempt in attempts(open_store(s3_url)).items():
        with pytest.raises(
            StoreError,
            match=rf"could not {attempted} in {s3_url}: access denied \(\w+\); check the credentials",
        ):
            attempt()


def test_a_bucket_that_does_not_exist_is_named(s3_url: str) -> None:
    for attempted, attempt in attempts(open_store("s3://no-such-bucket/prefix")).items():
        if attempted == "look up k":
            continue  # S3's HEAD says 404 alike for an object and for a bucket
        with pytest.raises(
            StoreError,
            match=f"could not {attempted} in s3://no-such-bucket/prefix: there is no bucket 'no-such-bucket'",
        ):
            attempt()


def test_an_endpoint_that_does_not_answer_is_named(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        for attempted, attempt in attempts(open_store(s3_url)).items():
            with pytest.raises(
                StoreError,
                match=rf"could not {attempted} in {s3_url}: {endpoint} does not answer after 6 attempts",
            ):
                attempt()


@pytest.mark.parametrize(
    "url",
    ["s3://key:hunter2@bucket/prefix", "s3://bucket/prefix?token=hunter2", "memory://user:hunter2@name"],
)
def test_credentials_in_a_url_are_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(ValueError, match="set credentials and options in the environment instead") as raised:
        open_store(url)
    assert "hunter2" not in str(raised.value)


def test_credentials_in_the_endpoint_are_refused_without_repeating_them(
    s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hunter2@127.0.0.1:1")
    with pytest.raises(ValueError, match="expected AWS_ENDPOINT_URL without credentials") as raised:
        open_store(s3_url).get("a")
    assert "hunter2" not in str(raised.value)


def test_a_pickled_store_holds_no_credentials(s3_url: str) -> None:
    store = open_store(s3_url)
    store.put("a", b"x")
    assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in pickle.dumps(store)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://", "found no bucket"),
        ("gs://bucket/prefix", "found a url of scheme 'gs'"),
        ("https://host/bucket", "found a url of scheme 'https'"),
        ("file://host/path", "expected file:///path with three slashes"),
        ("memory://", "expected a key"),
    ],
)
def test_a_url_that_is_not_understood_is_refused(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_store(url)


def test_a_root_is_opened_again_and_again_and_holds_its_mark_alone(s3_url: str) -> None:
    for _ in range(2):
        store = open_root(s3_url)
        assert [entry.key for entry in store.list("")] == ["dgflow.json"]


def test_the_roots_beside_a_mistyped_prefix_are_told_and_nothing_is_written(s3_url: str) -> None:
    open_root(f"{s3_url}/digits")
    with pytest.raises(ValueError, match=f"nothing at this root: .*beside it is {s3_url}/digits"):
        existing_root(f"{s3_url}/digit")
    with pytest.raises(ValueError, match=f"nothing at this root: .*below it is {s3_url}/digits"):
        existing_root(s3_url)
    with pytest.raises(ValueError, match=f"it lies in the root {s3_url}/digits"):
        existing_root(f"{s3_url}/digits/generate-0123456789ab")
    assert [entry.key for entry in open_store(s3_url).list("")] == ["digits/dgflow.json"]

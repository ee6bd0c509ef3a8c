"""Objects in an S3 bucket, or in anything that speaks S3 and honours `If-None-Match: *` (AWS, SeaweedFS, MinIO, Ceph, R2, ...).

Promises what `ObjectStore` does. Endpoint, region and credentials come from the usual AWS environment, profile or role, and are read
where the first request is made: an instance carries the bucket and prefix only, so that it can be pickled into a log without harm.

A create that was repeated after a lost reply meets its own object, and looks like a loss. botocore and s3fs repeat requests, which is
turned off here, and so does aiohttp beneath them, which cannot be: so every create carries a name of its own, and one that seems lost
looks up whose name the object bears.
"""

import asyncio
import contextlib
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import botocore.exceptions as boto
import s3fs
from botocore.parsers import ResponseParserError
from fsspec.exceptions import FSTimeoutError

from dgflow.store.objects import Entry, StoreError, check_key, check_new, store_error, under

BACK_OFF = (0.25, 0.5, 1.0, 2.0, 4.0)  # seconds before each repetition, halved to doubled at random: six attempts, about 8 s
_WRITER = "dgflow-writer"  # the metadata of a created object that names the call which made it
_MANY = 32  # concurrent reads of `get_many`
_LARGEST_CREATE = 64 * 2**20  # bytes; of racing multipart uploads two have been seen to win, of single-part ones never more than one

_TRANSIENT_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}
_TRANSIENT_CODES = {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "InternalError", "BadDigest"}
_TRANSIENT = (boto.ConnectionError, boto.HTTPClientError, ResponseParserError, FSTimeoutError, asyncio.TimeoutError, aiohttp.ClientError)
_RAISED = (OSError, boto.BotoCoreError, boto.ClientError, *_TRANSIENT)
_NO_CREDENTIALS = (boto.NoCredentialsError, boto.PartialCredentialsError, boto.TokenRetrievalError)

_LOGIN = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this host a role"


class S3Store:
    """Objects of `s3://bucket/prefix`."""

    shared = True

    def __init__(self, path: str) -> None:
        """`path` is `bucket` or `bucket/prefix`. Makes no request. Raises ValueError where there is no bucket name."""
        bucket, _, prefix = path.partition("/")
        if not bucket:
            raise ValueError("expected s3://bucket/prefix, found no bucket")
        prefix = "/".join(part for part in prefix.split("/") if part)
        self._path = f"{bucket}/{prefix}" if prefix else bucket
        self.url = f"s3://{self._path}"
        self._bucket = bucket
        self._root = f"{prefix}/" if prefix else ""
        self._connections: dict[int, s3fs.S3FileSystem] = {}

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return S3Store, (self._path,)

    def get(self, key: str) -> bytes:
        path = f"{self._bucket}/{self._root}{check_key(key)}"
        # One request, not s3fs's HEAD and ranges: receipts are many and small.
        data = self.request(f"read {key}", lambda fs: fs.cat_file(path, max_concurrency=1), may_lack=True)
        if data is None:
            raise FileNotFoundError(f"no object {key!r} in {self.url}")
        return data

    def get_many(self, keys: Sequence[str]) -> list[bytes]:
        if len(keys) < 2:
            return [self.get(key) for key in keys]
        with ThreadPoolExecutor(min(_MANY, len(keys)), thread_name_prefix="s3-get") as pool:
            return list(pool.map(self.get, keys))

    def put(self, key: str, data: bytes) -> None:
        path = f"{self._bucket}/{self._root}{check_key(key)}"
        self.request(f"write {key}", lambda fs: fs.pipe_file(path, data))

    def create(self, key: str, data: bytes) -> bool:
        check_new(key, data)
        if len(data) > _LARGEST_CREATE:
            raise ValueError(f"expected at most {_LARGEST_CREATE} bytes to create {key!r}, found {len(data)}: use put for large data")
        path = f"{self._bucket}/{self._root}{key}"
        writer = uuid.uuid4().hex

        def attempt(filesystem: s3fs.S3FileSystem) -> bool:
            try:
                filesystem.pipe_file(path, data, mode="create", Metadata={_WRITER: writer})
            except OSError as error:  # s3fs has no exception of its own for a precondition that failed
                if _status(error) == 412:
                    return False
                raise
            return True

        try:
            return self.request(f"create {key}", attempt) or self._written_by(writer, key)
        except StoreError:
            with contextlib.suppress(StoreError):
                if self._written_by(writer, key):
                    return True
            raise

    def size(self, key: str) -> int | None:
        found = self._head(key)
        return None if found is None else int(found["ContentLength"])

    def list(self, prefix: str) -> list[Entry]:
        found = [
            Entry(item["Key"].removeprefix(self._root), int(item["Size"]), item["LastModified"].timestamp())
            for page in self._pages(f"list {prefix or 'all'}", self._root + under(prefix))
            for item in page.get("Contents", [])
            if not item["Key"].endswith("/")  # some consoles and servers make such an object for a folder
        ]
        return sorted(found, key=lambda entry: entry.key)

    def names(self) -> "list[str]":  # quoted: `list` is a method here
        pages = self._pages("list the root", self._root, Delimiter="/")
        found = [item for page in pages for item in (*page.get("Contents", []), *page.get("CommonPrefixes", []))]
        keys = [item.get("Key") or item["Prefix"] for item in found]
        return sorted({key.removeprefix(self._root).rstrip("/") for key in keys} - {""})

    def _pages(self, attempted: str, folder: str, **options: str) -> Iterator[dict[str, Any]]:
        """The replies to a listing of the keys that begin with `folder`, 1,000 keys each."""
        more: dict[str, str] | None = {}
        while more is not None:
            page = self.request(
                attempted,
                lambda fs, more=more: fs.call_s3("list_objects_v2", Bucket=self._bucket, Prefix=folder, **options, **more),
            )
            yield page
            more = {"ContinuationToken": page["NextContinuationToken"]} if page.get("IsTruncated") else None

    def delete(self, key: str) -> None:
        name = self._root + check_key(key)
        self.request(f"delete {key}", lambda fs: fs.call_s3("delete_object", Bucket=self._bucket, Key=name), may_lack=True)

    def _written_by(self, writer: str, key: str) -> bool:
        found = self._head(key)
        return found is not None and found.get("Metadata", {}).get(_WRITER) == writer

    def _head(self, key: str) -> dict[str, Any] | None:
        name = self._root + check_key(key)
        return self.request(f"look up {key}", lambda fs: fs.call_s3("head_object", Bucket=self._bucket, Key=name), may_lack=True)

    def request(self, attempted: str, call: Callable[[s3fs.S3FileSystem], Any], may_lack: bool = False) -> Any:
        """Make a request, repeating it after errors that pass. `may_lack`: return None where there is no such object."""
        filesystem = self._filesystem()
        for pause in (*BACK_OFF, None):
            try:
                return call(filesystem)
            except _RAISED as error:
                if may_lack and _status(error) == 404 and _code(error) != "NoSuchBucket":
                    return None
                if pause is None or not _transient(error):
                    raise store_error(attempted, self.url, *self._explained(error)) from error
            time.sleep(pause * random.uniform(0.5, 2.0))
        raise AssertionError("unreachable")

    def _filesystem(self) -> s3fs.S3FileSystem:
        """This process's connection: fsspec's event loop does not survive a fork.

        What a fork inherited is kept and not closed, as its sockets belong to the parent.
        """
        if (pid := os.getpid()) not in self._connections:
            _check_endpoint()
            config = {
                "connect_timeout": 10,
                "read_timeout": 60,
                "max_pool_connections": _MANY,
                "retries": {"total_max_attempts": 1},
            }
            filesystem = s3fs.S3FileSystem(anon=False, use_listings_cache=False, skip_instance_cache=True, config_kwargs=config)
            filesystem.retries = 1
            self._connections.setdefault(pid, filesystem)  # one for all threads: connecting takes a tenth of a second
        return self._connections[pid]

    def _explained(self, error: Exception) -> tuple[str, str]:
        """What was found and what to do."""
        code, status = _code(error), _status(error)
        if isinstance(error, _NO_CREDENTIALS):
            return "found no credentials", _LOGIN
        if code in ("NoSuchBucket", "InvalidBucketName"):
            return f"there is no bucket {self._bucket!r} ({code})", "create it, or correct the url or AWS_ENDPOINT_URL"
        if code == "RequestTimeTooSkewed":
            return f"this host's clock is off ({code})", "set the clock"
        if status in (401, 403) or code in ("ExpiredToken", "InvalidToken"):
            return (
                f"access denied ({code or status})",
                f"check the credentials, and that they may get, put, list and delete in bucket {self._bucket!r}",
            )
        if status == 507 or code in ("QuotaExceeded", "XMinioStorageFull"):
            return f"the storage is full ({code or status})", "free some space there, or use another root, and run again: nothing is lost"
        if code is None and isinstance(error, _TRANSIENT):
            where = _endpoint() or "the AWS endpoint of the region"
            return (
                f"{where} does not answer after {len(BACK_OFF) + 1} attempts ({type(error).__name__}: {error})",
                "check AWS_ENDPOINT_URL, the network and the server, and run again: nothing is lost",
            )
        return f"{type(error).__name__}: {error}", "resolve that and run again: nothing is lost"


def _client_error(error: BaseException | None) -> boto.ClientError | None:
    """s3fs raises OSErrors whose cause is botocore's reply."""
    while error is not None and not isinstance(error, boto.ClientError):
        error = error.__cause__
    return error


def _code(error: BaseException) -> str | None:
    found = _client_error(error)
    return found.response.get("Error", {}).get("Code") if found else None


def _status(error: BaseException) -> int | None:
    found = _client_error(error)
    return found.response.get("ResponseMetadata", {}).get("HTTPStatusCode") if found else None


def _transient(error: BaseException) -> bool:
    if _client_error(error):
        return _status(error) in _TRANSIENT_STATUS or _code(error) in _TRANSIENT_CODES
    return isinstance(error, _TRANSIENT) or (isinstance(error, OSError) and not isinstance(error, FileNotFoundError | PermissionError))


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _check_endpoint() -> None:
    """An endpoint with a password in it would be in every error of the libraries below."""
    if (endpoint := _endpoint()) and "@" in urlsplit(endpoint).netloc:
        raise ValueError(f"expected AWS_ENDPOINT_URL without credentials; {_LOGIN}")

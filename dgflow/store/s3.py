"""Objects in an S3 bucket, on AWS or on any server that honours `If-None-Match: *` (SeaweedFS, MinIO, Ceph,
R2, ...).

Endpoint, region and credentials come from the usual AWS environment, profile or role, and are read at the
first request. An instance holds only the bucket and prefix, so a pickle of it contains no secret.

A create that is repeated after a lost reply finds its own object and appears to have lost the race. Retries
by botocore and s3fs are turned off here; those of aiohttp, below them, cannot be. Therefore every create
writes a unique name into the object's metadata, and a create that was refused compares the object's name with
its own.
"""

import contextlib
import logging
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any

import s3fs

from dgflow.store.objects import (
    LARGEST_CREATE,
    Entry,
    StoreDenied,
    StoreError,
    StoreRefusal,
    check_key,
    check_new,
    store_error,
    under,
)
from dgflow.store.s3_endpoint import check_configuration, check_endpoint, configured_endpoint
from dgflow.store.s3_errors import (
    RAISED,
    client_error,
    explained,
    is_foreign,
    is_missing,
    is_of_credentials,
    is_transient,
    status,
)

# Seconds before each retry, times a random factor from one half to two: six attempts, about 8 s
BACK_OFF = (0.25, 0.5, 1.0, 2.0, 4.0)
PATIENCE = 300.0  # seconds for which requests are retried if the store has answered before
_LONGEST_PAUSE = 20.0  # seconds
_CONNECT_SECONDS, _SILENT_SECONDS = 10, 60  # timeouts: for a connection; for the next byte of a reply
_SLOWEST = 250_000  # bytes per second: a slower write has lost its connection
_WRITER = "dgflow-writer"  # metadata key of a created object for the unique name of the call that created it
_MANY = 32  # concurrent reads in `get_many`

_log = logging.getLogger(__name__)


class S3Store:
    """Objects of `s3://bucket/prefix`."""

    shared = True

    def __init__(self, path: str) -> None:
        """Set the location: `path` is `bucket` or `bucket/prefix`. Makes no request. Raises ValueError
        without a bucket.
        """
        bucket, _, prefix = path.partition("/")
        if not bucket:
            raise ValueError("expected s3://bucket/prefix, found no bucket")
        prefix = "/".join(part for part in prefix.split("/") if part)
        self._path = f"{bucket}/{prefix}" if prefix else bucket
        self.url = f"s3://{self._path}"
        self._bucket = bucket
        self._root = f"{prefix}/" if prefix else ""
        self._connections: dict[int, s3fs.S3FileSystem] = {}
        self._answered = False  # the store has responded, so an outage is worth waiting for
        self._admitted = False  # the store has accepted credentials of this process, which may be renewed
        self._silent_since: float | None = None  # `time.monotonic` of the warning about silence

    def __reduce__(self) -> tuple[object, tuple[str], dict[str, Any]]:
        return S3Store, (self._path,), {"_answered": self._answered}

    def get(self, key: str) -> bytes:
        path = f"{self._bucket}/{self._root}{check_key(key)}"
        # One request, not s3fs's HEAD and ranges: receipts are many and small.
        data = self.request(f"read {key}", lambda fs: fs.cat_file(path, max_concurrency=1), missing_ok=True)
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
        self.request(f"write {key}", lambda fs: fs.pipe_file(path, data, timeout=_write_seconds(data)))

    def create(self, key: str, data: bytes) -> bool:
        check_new(key, data)
        if len(data) > LARGEST_CREATE:
            raise ValueError(
                f"expected at most {LARGEST_CREATE} bytes to create {key!r}, found {len(data)}: use put "
                "for large data"
            )
        path = f"{self._bucket}/{self._root}{key}"
        writer = uuid.uuid4().hex

        def attempt(filesystem: s3fs.S3FileSystem) -> bool:
            try:
                filesystem.pipe_file(
                    path, data, mode="create", Metadata={_WRITER: writer}, timeout=_write_seconds(data)
                )
            except OSError as error:  # s3fs has no specific exception for a failed precondition
                if status(error) == 412:
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
        head = self._head(key)
        return None if head is None else int(head["ContentLength"])

    def version(self, key: str) -> tuple[int, str] | None:
        """The object's length and ETag; None if there is no such object."""
        head = self._head(key)
        return None if head is None else (int(head["ContentLength"]), str(head.get("ETag", "")).strip('"'))

    def list(self, prefix: str) -> list[Entry]:
        entries = [
            Entry(item["Key"].removeprefix(self._root), int(item["Size"]), item["LastModified"].timestamp())
            for page in self._pages(f"list {prefix or 'all'}", self._root + under(prefix))
            for item in page.get("Contents", [])
            if not item["Key"].endswith("/")  # some consoles and servers represent a folder by such an object
        ]
        return sorted(entries, key=lambda entry: entry.key)

    def names(self) -> "list[str]":  # quoted: `list` is a method here
        keys = []
        for page in self._pages("list the root", self._root, Delimiter="/"):
            keys += [item["Key"] for item in page.get("Contents", [])]
            keys += [item["Prefix"] for item in page.get("CommonPrefixes", [])]
        return sorted({key.removeprefix(self._root).rstrip("/") for key in keys} - {""})

    def _pages(self, attempted: str, folder: str, **options: str) -> Iterator[dict[str, Any]]:
        """Yield the pages of a listing of the keys that begin with `folder`, up to 1,000 keys each."""
        more: dict[str, str] | None = {}
        while more is not None:
            fields = {"Bucket": self._bucket, "Prefix": folder, **options, **more}
            page = self.request(attempted, lambda fs, fields=fields: fs.call_s3("list_objects_v2", **fields))
            yield page
            more = {"ContinuationToken": page["NextContinuationToken"]} if page.get("IsTruncated") else None

    def delete(self, key: str) -> None:
        name = self._root + check_key(key)
        self.request(
            f"delete {key}",
            lambda fs: fs.call_s3("delete_object", Bucket=self._bucket, Key=name),
            missing_ok=True,
        )

    def now(self) -> float:
        name = f"{self._root}dgflow.json"

        def date(filesystem: s3fs.S3FileSystem) -> str:
            try:
                reply: Any = filesystem.call_s3("head_object", Bucket=self._bucket, Key=name)
            except OSError as error:
                if status(error) != 404 or (service_error := client_error(error)) is None:
                    raise
                reply = service_error.response  # every reply has the server's time
            return reply["ResponseMetadata"]["HTTPHeaders"]["date"]

        return parsedate_to_datetime(self.request("read the time", date)).timestamp()

    def _written_by(self, writer: str, key: str) -> bool:
        head = self._head(key)
        return head is not None and head.get("Metadata", {}).get(_WRITER) == writer

    def _head(self, key: str) -> dict[str, Any] | None:
        name = self._root + check_key(key)
        return self.request(
            f"look up {key}",
            lambda fs: fs.call_s3("head_object", Bucket=self._bucket, Key=name),
            missing_ok=True,
        )

    def request(
        self, attempted: str, call: Callable[[s3fs.S3FileSystem], Any], missing_ok: bool = False
    ) -> Any:
        """Make a request, retried after transient errors; with `missing_ok`, None if there is no object.

        If a store that has responded before, here or where this instance was pickled, becomes unreachable,
        the request is retried for PATIENCE seconds, so that a run continues once the store is back. A store
        that never responded probably has a wrong address, and the request fails after `BACK_OFF`. Expired
        credentials are retried in the same way if the store has accepted credentials of this process before;
        each attempt reads them again.
        """
        began, attempts = time.monotonic(), 0
        while True:
            attempts += 1
            try:
                reply = call(self._filesystem())
            except RAISED as error:
                if missing_ok and is_missing(error):
                    self._heard()
                    return None
                if is_foreign(error):
                    raise
                stale, waited = self._admitted and is_of_credentials(error), time.monotonic() - began
                transient = stale or is_transient(error)
                if not transient or (attempts > len(BACK_OFF) and not (self._answered and waited < PATIENCE)):
                    self._silent_since = None
                    tried = f"{attempts} attempts" + (f" in {waited:.0f} s" if waited > PATIENCE else "")
                    found = explained(error, self._bucket, configured_endpoint(), tried)
                    denied = status(error) == 403 and not is_of_credentials(error)
                    kind = StoreError if transient else StoreDenied if denied else StoreRefusal
                    raise store_error(attempted, self.url, *found, kind=kind) from error
                if stale:
                    self._connections.pop(os.getpid(), None)  # the connection caches the credentials
                if attempts > len(BACK_OFF):
                    self._warn_of_silence(error)
            else:
                self._heard()
                return reply
            time.sleep(_pause(attempts))

    def _warn_of_silence(self, error: Exception) -> None:
        if self._silent_since is None:
            self._silent_since = time.monotonic()
            message = "%s does not answer (%s: %s); waiting up to %.0f s for it"
            if is_of_credentials(error):
                message = "no valid credentials for %s (%s: %s); waiting up to %.0f s for new ones"
            _log.warning(message, self.url, type(error).__name__, error, PATIENCE)

    def _heard(self) -> None:
        self._answered = self._admitted = True
        since, self._silent_since = self._silent_since, None
        if since is not None:
            _log.warning("%s answers again, %.0f s later", self.url, time.monotonic() - since)

    def _filesystem(self) -> s3fs.S3FileSystem:
        """The connection of this process. Each process has its own, because fsspec's event loop does not
        survive a fork.

        A connection inherited from the parent is not closed, because its sockets belong to the parent.
        """
        if (pid := os.getpid()) not in self._connections:
            check_configuration()
            config = {
                "connect_timeout": _CONNECT_SECONDS,
                "read_timeout": _SILENT_SECONDS,
                "max_pool_connections": _MANY,
                "retries": {"total_max_attempts": 1},
            }
            filesystem = s3fs.S3FileSystem(
                anon=False, use_listings_cache=False, skip_instance_cache=True, config_kwargs=config
            )
            filesystem.retries = 1
            # Shared by all threads: connecting takes 0.1 s.
            self._connections.setdefault(pid, filesystem)
        filesystem = self._connections[pid]
        client: Any = filesystem.s3
        check_endpoint(client.meta.endpoint_url)  # includes the endpoint of a configuration file
        return filesystem


def _pause(attempts: int) -> float:
    """Seconds before a request's next attempt, with jitter, so that many workers do not retry at once."""
    if attempts <= len(BACK_OFF):
        return BACK_OFF[attempts - 1] * random.uniform(0.5, 2.0)
    return min(_LONGEST_PAUSE, BACK_OFF[-1] * 2 ** (attempts - len(BACK_OFF))) * random.uniform(0.5, 1.0)


def _write_seconds(data: bytes) -> float:
    """The timeout of a write in seconds: the libraries below have none for a server that stops reading the
    body.
    """
    return _SILENT_SECONDS + len(data) / _SLOWEST

"""Locations of files and folders, local or `s3://bucket/key`, read by byte ranges.

A location can be pickled and opened in any process. Processes that share an open file after a fork have
separate positions in it. S3 uses the endpoint and credentials of `dgflow.store.s3`. No message contains a
secret.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, Protocol

from dgflow.files.names import is_shown
from dgflow.files.trees import Contents, contents
from dgflow.store.urls import split_url

if TYPE_CHECKING:
    from dgflow.store.s3 import S3Store

_AT_ONCE = 32  # concurrent requests of `read_many`
# Bytes of read-ahead for small reads: a request to S3 takes as long as 1 MiB.
_LOCAL_BUFFER, _S3_BUFFER = 2**16, 2**20


class Location(Protocol):
    """The location of a file or folder, which may not exist. Picklable."""

    @property
    def url(self) -> str:
        """The path or url, for messages; contains no secret."""
        ...

    def kind(self) -> Literal["file", "folder"] | None:
        """The kind of object that exists at the location now; None if there is none."""
        ...

    def contents(self) -> Contents:
        """List every file below a folder."""
        ...

    def open(self, name: str = "") -> io.BufferedReader:
        """Open the file, or the file `name` of the folder, for reading and seeking. Raises
        FileNotFoundError.
        """
        ...

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        """Read whole files of the folder, in the order of `names`; from S3 concurrently."""
        ...


def locate(source: str, folder: str = "") -> Location:
    """Return the location of a path (a relative path starts at `folder`), a `file:///path` or an
    `s3://bucket/key`. Makes no request.

    Raises:
        ValueError: another scheme, a mistyped url, or a url with credentials, which the message does not
            show.
    """
    scheme, rest = split_url(source)
    if scheme == "memory":
        raise ValueError(
            "expected a path, file:///path or s3://bucket/key, found memory://, which contains only steps: "
            "add [start:stop] to read the samples of one"
        )
    return S3Location(rest) if scheme == "s3" else LocalLocation(os.path.join(folder, rest))


def file_size(location: Location, name: str = "") -> int:
    """The size of a file in bytes. Raises FileNotFoundError."""
    with location.open(name) as file:
        return file.seek(0, 2)


class LocalLocation:
    def __init__(self, path: str) -> None:
        # Absolute, because workers may have another working directory.
        self.path = Path(os.path.abspath(os.path.expanduser(path)))
        self.url = str(self.path)

    def kind(self) -> Literal["file", "folder"] | None:
        return "folder" if self.path.is_dir() else "file" if self.path.exists() else None

    def contents(self) -> Contents:
        return contents(str(self.path))

    def open(self, name: str = "") -> io.BufferedReader:
        return ranged(os.open(self.path / name, os.O_RDONLY | os.O_CLOEXEC))

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        return [(self.path / name).read_bytes() for name in names]


class S3Location:
    def __init__(self, path: str) -> None:
        bucket, _, key = path.partition("/")
        self.bucket, self.key = bucket, "/".join(part for part in key.split("/") if part)
        self.url = f"s3://{bucket}/{self.key}"

    def kind(self) -> Literal["file", "folder"] | None:
        if self.key and self.size(self.key) is not None:
            return "file"
        prefix = f"{self.key}/" if self.key else ""
        page = self.request(
            "list", lambda fs: fs.call_s3("list_objects_v2", Bucket=self.bucket, Prefix=prefix, MaxKeys=1)
        )
        return "folder" if page.get("Contents") else None

    def contents(self) -> Contents:
        return Contents({entry.key: entry.bytes for entry in self._store().list("") if is_shown(entry.key)})

    def open(self, name: str = "") -> io.BufferedReader:
        key = self._key(name)
        size = self.size(key)
        if size is None:
            raise FileNotFoundError(f"no object at s3://{self.bucket}/{key}")
        return io.BufferedReader(_Ranged(lambda start, stop: self._range(key, start, stop), size), _S3_BUFFER)

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        def read(name: str) -> bytes:
            key = self._key(name)
            data = self.request(
                f"read {key}",
                lambda fs: fs.cat_file(f"{self.bucket}/{key}", max_concurrency=1),
                missing_ok=True,
            )
            if data is None:
                raise FileNotFoundError(f"no object at s3://{self.bucket}/{key}")
            return data

        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="s3-read") as pool:
            return list(pool.map(read, names))

    def request(self, attempted: str, call: Callable, missing_ok: bool = False):
        """Call s3fs with the store's retries and errors. The store's other methods are not used, because they
        refuse keys that S3 permits.
        """
        return self._store().request(attempted, call, missing_ok)

    def size(self, key: str) -> int | None:
        """The size in bytes of the object at a key of the bucket; None if there is none."""
        reply = self.request(
            f"look up {key}",
            lambda fs: fs.call_s3("head_object", Bucket=self.bucket, Key=key),
            missing_ok=True,
        )
        return None if reply is None else int(reply["ContentLength"])

    def _store(self) -> S3Store:
        if (store := _stores.get(self.url)) is None:
            from dgflow.store.s3 import S3Store  # importing s3fs takes half a second

            store = _stores[self.url] = S3Store(f"{self.bucket}/{self.key}")
        return store

    def _key(self, name: str) -> str:
        return "/".join(part for part in (self.key, name) if part)

    def _range(self, key: str, start: int, stop: int) -> bytes:
        return self.request(
            f"read {key}", lambda fs: fs.cat_file(f"{self.bucket}/{key}", start=start, end=stop)
        )


_stores: dict[str, S3Store] = {}  # per process: connecting takes 0.2 s


def ranged(descriptor: int) -> io.BufferedReader:
    """Open a file from a descriptor, which it then owns. After a fork, each process has its own position in
    the file.
    """
    try:
        size = os.fstat(descriptor).st_size
        raw = _Ranged(lambda start, stop: os.pread(descriptor, stop - start, start), size, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return io.BufferedReader(raw, _LOCAL_BUFFER)


class _Ranged(io.RawIOBase):
    """A file that is read by fetching byte ranges."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int, descriptor: int | None = None) -> None:
        self._fetch, self._size, self._position, self._descriptor = fetch, size, 0, descriptor

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if position < 0:  # OSError, like files: zipfile relies on it to find the end
            raise OSError(f"expected a position of at least 0, found {position}")
        self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer) -> int:  # pyright: ignore[reportIncompatibleMethodOverride] (the annotation of the base needs 3.12)
        stop = min(self._position + len(buffer), self._size)
        if stop <= self._position:
            return 0
        data = self._fetch(self._position, stop)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed and self._descriptor is not None:
            os.close(self._descriptor)
        super().close()


def window(file: IO[bytes], start: int, size: int) -> io.RawIOBase:
    """Present a byte range of a file as a file."""

    def fetch(first: int, last: int) -> bytes:
        file.seek(start + first)
        return file.read(last - first)

    return _Ranged(fetch, size)

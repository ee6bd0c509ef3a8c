"""Write files and folders, local or in S3, atomically: they appear whole or not at all.

`new_file` and `new_folder` never replace an existing output; `write_output` does. A local output is written
under a hidden name in the same folder and then renamed. An object in S3 is a multipart upload that is
completed at the end. A killed process leaves the hidden file, which can be removed by hand, or an incomplete
upload, which a lifecycle rule of the bucket removes.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from dgflow.files.locations import LocalLocation, Location, S3Location, locate
from dgflow.store.objects import StoreError

_PART = 32 * 2**20  # bytes per part of an upload, which has at most 10,000 parts

OpenNew = Callable[[str], IO[bytes]]
"""Opens a new file of a folder for writing, by its relative path."""


@contextlib.contextmanager
def new_file(out: str) -> Iterator[IO[bytes]]:
    """Write a new file sequentially. Raises ValueError if `out` exists."""
    location = locate(out)
    _check_new(location, out)
    if isinstance(location, S3Location):
        with _uploads(location, out) as upload:
            yield upload("")
        return
    assert isinstance(location, LocalLocation)
    temporary = _temporary(location.path)
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, location.path)  # unlike a rename, this fails if the name exists by now
        except FileExistsError:
            raise _exists(out) from None
        except OSError:  # a file system without hard links
            _check_new(location, out)
            os.rename(temporary, location.path)
    finally:
        temporary.unlink(missing_ok=True)


def write_output(out: str, data: bytes) -> None:
    """Write or replace a file atomically, on disk or in S3.

    Raises ValueError for a location that cannot be a file, and StoreError or OSError if writing fails.
    """
    location = locate(out)
    if isinstance(location, S3Location):
        if not location.key:
            raise ValueError(f"expected s3://bucket/name of a file to write, found {out}; add a name")
        upload = _Upload(location, location.key)
        try:
            upload.write(data)
            upload.send_rest()
            upload.complete(replace=True)
        except BaseException:
            upload.abort()
            raise
        return
    assert isinstance(location, LocalLocation)
    path = location.path.resolve()
    if path.exists() and not path.is_file():  # a pipe or terminal is written to instead of replaced
        path.write_bytes(data)
        return
    temporary = _temporary(path)
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(out: str) -> Iterator[OpenNew]:
    """Write a new folder, file by file. Raises ValueError if `out` exists."""
    location = locate(out)
    _check_new(location, out)
    if isinstance(location, S3Location):
        with _uploads(location, out) as upload:
            yield upload
        return
    assert isinstance(location, LocalLocation)
    temporary = _temporary(location.path)
    temporary.mkdir()

    def open_new(name: str) -> IO[bytes]:
        path = temporary / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "xb")

    try:
        yield open_new
        _check_new(location, out)
        os.rename(temporary, location.path)  # fails if a non-empty folder has appeared meanwhile
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.part"


def _check_new(location: Location, out: str) -> None:
    if location.kind() is not None:
        raise _exists(out)


def _exists(out: str) -> ValueError:
    return ValueError(
        f"expected nothing at {out} yet, found a file or folder, which is not overwritten; give another "
        "output or remove it"
    )


@contextlib.contextmanager
def _uploads(location: S3Location, out: str) -> Iterator[Callable[[str], IO[bytes]]]:
    """A context for uploads below a location, which are completed at its end, and aborted on an error."""
    uploads: list[_Upload] = []
    files: list[IO[bytes]] = []

    def open_new(name: str) -> IO[bytes]:
        uploads.append(_Upload(location, "/".join(part for part in (location.key, name) if part)))
        files.append(io.BufferedWriter(uploads[-1], 2**20))
        return files[-1]

    try:
        yield open_new
        for file in files:
            file.close()
        for upload in uploads:
            upload.send_rest()
        for upload in uploads:
            if not upload.complete():
                raise _exists(out)
    except BaseException:
        for upload in uploads:
            upload.abort()
        raise


class _Upload(io.RawIOBase):
    """A multipart upload. Closing the file leaves the upload open in S3: `complete` creates the object,
    `abort` discards the sent parts.
    """

    def __init__(self, location: S3Location, key: str) -> None:
        self._location, self._key = location, key
        self._buffer = bytearray()
        self._parts: list[dict[str, Any]] = []
        self._id: str | None = self._call("create_multipart_upload")["UploadId"]

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:  # pyright: ignore[reportIncompatibleMethodOverride] (the annotation of the base needs 3.12)
        self._buffer += data
        while len(self._buffer) >= _PART:
            self._send(_PART)
        return len(data)

    def send_rest(self) -> None:
        if self._buffer or not self._parts:
            self._send(len(self._buffer))

    def complete(self, replace: bool = False) -> bool:
        """Create the object. Without `replace`, returns False if one exists, which is then left unchanged."""
        finished: dict[str, Any] = {"UploadId": self._id, "MultipartUpload": {"Parts": self._parts}}
        if not replace:
            finished["IfNoneMatch"] = "*"
        try:
            done = self._call("complete_multipart_upload", missing_ok=True, **finished)
        except StoreError as error:
            if _precondition_failed(error):
                return False
            raise
        # The reply to the first attempt may have been lost.
        if done is None and self._location.size(self._key) is None:
            raise StoreError(
                f"could not complete {self._key} in s3://{self._location.bucket}: the upload is gone; export "
                "again"
            )
        self._id = None
        return True

    def abort(self) -> None:
        if self._id is not None:
            with contextlib.suppress(StoreError):  # report the error that ended the export
                self._call("abort_multipart_upload", missing_ok=True, UploadId=self._id)
            self._id = None

    def _send(self, size: int) -> None:
        number, data = len(self._parts) + 1, bytes(memoryview(self._buffer)[:size])
        reply = self._call("upload_part", UploadId=self._id, PartNumber=number, Body=data)
        self._parts.append({"ETag": reply["ETag"], "PartNumber": number})
        del self._buffer[:size]

    def _call(self, operation: str, missing_ok: bool = False, **arguments: Any) -> Any:
        return self._location.request(
            f"write {self._key}",
            lambda fs: fs.call_s3(operation, Bucket=self._location.bucket, Key=self._key, **arguments),
            missing_ok,
        )


def _precondition_failed(error: BaseException | None) -> bool:
    """True if an error has as its cause, at any depth, a reply of S3 that the object exists."""
    while error is not None:
        if getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode") == 412:
            return True
        error = error.__cause__
    return False

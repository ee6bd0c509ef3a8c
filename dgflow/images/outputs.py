"""New files and folders, local or in S3, that are there whole or not at all, and never take the place of what
is there.

A local output is written under a hidden name beside its own and then renamed; an object is a multipart upload
that is completed at the end. What a killed process leaves is such a hidden name (to be removed by hand) or an
upload (which a bucket's lifecycle rules remove).
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

from dgflow.images.places import LocalPlace, S3Place, open_place
from dgflow.store.objects import StoreError

_PART = 32 * 2**20  # bytes of a part of an upload, of which there may be 10,000

OpenNew = Callable[[str], IO[bytes]]
"""Opens a new file of a folder for writing, by its relative path."""


@contextlib.contextmanager
def new_file(out: str) -> Iterator[IO[bytes]]:
    """Write a new file, from its start to its end. Raises ValueError where something is there."""
    place = open_place(out)
    _check_new(place, out)
    if isinstance(place, S3Place):
        with _uploads(place, out) as upload:
            yield upload("")
        return
    assert isinstance(place, LocalPlace)
    temporary = _temporary(place.path)
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, place.path)  # unlike a rename, this fails where something is there by now
        except FileExistsError:
            raise _exists(out) from None
        except OSError:  # a file system without hard links
            _check_new(place, out)
            os.rename(temporary, place.path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(out: str) -> Iterator[OpenNew]:
    """Write a new folder, file by file. Raises ValueError where something is there."""
    place = open_place(out)
    _check_new(place, out)
    if isinstance(place, S3Place):
        with _uploads(place, out) as upload:
            yield upload
        return
    assert isinstance(place, LocalPlace)
    temporary = _temporary(place.path)
    temporary.mkdir()

    def open_new(name: str) -> IO[bytes]:
        path = temporary / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "xb")

    try:
        yield open_new
        _check_new(place, out)
        os.rename(temporary, place.path)  # fails where a folder with files appeared meanwhile
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.part"


def _check_new(place: LocalPlace | S3Place | Any, out: str) -> None:
    if place.kind() is not None:
        raise _exists(out)


def _exists(out: str) -> ValueError:
    return ValueError(
        f"expected nothing at {out} yet, found something there, which is not overwritten; give another "
        "place or remove it"
    )


@contextlib.contextmanager
def _uploads(place: S3Place, out: str) -> Iterator[Callable[[str], IO[bytes]]]:
    """Uploads below a place: all of them are completed after the block, or none."""
    started: list[_Upload] = []

    def start(name: str) -> IO[bytes]:
        started.append(_Upload(place, "/".join(part for part in (place.key, name) if part)))
        return io.BufferedWriter(started[-1], 2**20)

    try:
        opened: list[IO[bytes]] = []

        def open_new(name: str) -> IO[bytes]:
            opened.append(start(name))
            return opened[-1]

        yield open_new
        for file in opened:
            file.close()
        for upload in started:
            upload.send_rest()
        for upload in started:
            if not upload.complete():
                raise _exists(out)
    except BaseException:
        for upload in started:
            upload.abort()
        raise


class _Upload(io.RawIOBase):
    """A multipart upload. Closing it keeps it open in S3: `complete` makes the object, `abort` removes what
    was sent."""

    def __init__(self, place: S3Place, key: str) -> None:
        self._place, self._key = place, key
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

    def complete(self) -> bool:
        """Make the object; False where one is there by now, and is untouched."""
        finished = {"UploadId": self._id, "MultipartUpload": {"Parts": self._parts}, "IfNoneMatch": "*"}
        try:
            done = self._call("complete_multipart_upload", may_lack=True, **finished)
        except StoreError as error:
            if _precondition_failed(error):
                return False
            raise
        if (
            done is None and self._place.size(self._key) is None
        ):  # the reply to the first attempt may have been lost
            raise StoreError(
                f"could not complete {self._key} in s3://{self._place.bucket}: the upload is gone; export "
                "again"
            )
        self._id = None
        return True

    def abort(self) -> None:
        if self._id is not None:
            with contextlib.suppress(StoreError):  # what ended the export is what is to be told
                self._call("abort_multipart_upload", may_lack=True, UploadId=self._id)
            self._id = None

    def _send(self, size: int) -> None:
        number, data = len(self._parts) + 1, bytes(memoryview(self._buffer)[:size])
        reply = self._call("upload_part", UploadId=self._id, PartNumber=number, Body=data)
        self._parts.append({"ETag": reply["ETag"], "PartNumber": number})
        del self._buffer[:size]

    def _call(self, operation: str, may_lack: bool = False, **arguments: Any) -> Any:
        return self._place.request(
            f"write {self._key}",
            lambda fs: fs.call_s3(operation, Bucket=self._place.bucket, Key=self._key, **arguments),
            may_lack,
        )


def _precondition_failed(error: BaseException | None) -> bool:
    """Whether S3's reply, below the errors of the store and of s3fs, says that the object exists."""
    while error is not None:
        if getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode") == 412:
            return True
        error = error.__cause__
    return False

"""Fetch weight files into the root, and verify them at every use against the sha256 locked at first use.

While a file is read or written it is in memory once, since stores transfer whole objects.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dgflow.files import lfs
from dgflow.store.identity import canonical_json, sha256_hex
from dgflow.store.local import LocalStore
from dgflow.store.objects import ObjectStore
from dgflow.store.open import as_typed, open_store
from dgflow.store.receipts import CorruptObject
from dgflow.weights.entry import CatalogueFile
from dgflow.weights.lock import Lock, lock_key, read_lock
from dgflow.weights.scratch import alone, digest, file_errors, scratch_folder, write_whole
from dgflow.weights.sources import Source, Version, obtain, parse_source, version

if TYPE_CHECKING:
    from dgflow.weights.weight_file import File

T = TypeVar("T")


@dataclass(frozen=True)
class LocalFile:
    """A verified file on this host, in the root or the scratch folder. Do not modify it.

    Attributes: size: size in bytes. lock_key: key of the lock in the root. An error about a bad file should
        say that, once the right file is available, the lock has to be deleted, so that the next use counts as
        the first.
    """

    path: Path
    sha256: str
    size: int
    lock_key: str


@dataclass(frozen=True)
class _Request:
    """One file to fetch. Its keys in the root are:

    weights/NAME.json           the lock, written once
    weights/NAME/<sha16>/FILE   the bytes, written before the lock
    weights/NAME/FILE           a file put there by hand, for example because it cannot be downloaded
    """

    store: ObjectStore
    scratch: Path
    name: str
    file_name: str
    source: Source | None  # None: must be downloaded by hand
    page: str
    sha256: str | None

    @property
    def manual_key(self) -> str:
        return f"weights/{self.name}/{self.file_name}"

    @property
    def download(self) -> Path:
        return self.scratch / "downloads" / self.name / self.file_name

    @property
    def remedy(self) -> str:
        return (
            f"restore the earlier file, or, to use the new one, delete {lock_key(self.name)} in "
            f"{self.store.url} and run again"
        )


def fetch(
    root: ObjectStore | str,
    file: CatalogueFile | str,
    *,
    expected_sha256: str | None = None,
    scratch: Path | None = None,
    accept: Callable[[bytes], None] | None = None,
) -> LocalFile:
    """Return the file on this host, complete and verified: from the root, or from its source via the root.

    Args:
        root: the store, or its URL.
        file: an entry of the catalogue, or a source as in `dgflow.weights.sources`. A relative path depends
            on the current folder. expected_sha256: the digest, 64 hex digits, if known from elsewhere.
        scratch: folder for downloads and copies, by default `scratch_folder()`.
        accept: called with the bytes at first use. If it raises, the file is neither stored nor locked, so a
            wrong file does not block the right one.

    Raises:
        ValueError: the source has an unknown form; the file must be put into the root by hand; or the file is
            not the expected one and is not stored.
        CorruptObject: the file differs from the locked one; both digests are named.
        FileNotFoundError, StoreError: the source or the root cannot be used.
    """
    store = open_store(root) if isinstance(root, str) else root
    request = _request(store, scratch or scratch_folder(), file, expected_sha256)
    lock = read_lock(store, request.name)
    if lock is None:
        with alone(request.scratch, request.name):
            lock = read_lock(store, request.name) or _first_use(request, accept)
    if request.sha256 and request.sha256 != lock.sha256:
        raise _mismatch(request, lock, f"the expected one is {request.sha256}")
    path = request.source.text if request.source and request.source.kind == "file" else ""
    if os.path.isfile(path) and (sha256 := digest(Path(path))) != lock.sha256:
        raise _mismatch(request, lock, f"the file now at {path} has {sha256}")
    return _from_root(request, lock) or _repaired(request, lock)


def read_fetched(
    root: ObjectStore,
    file: CatalogueFile | str,
    read: Callable[[File], T],
    expected_sha256: str | None = None,
) -> T:
    """Fetch a file and return the result of `read`, which is called with the file's bytes at first use, and
    with its path later.

    A file that `read` refuses at first use is neither stored nor locked. Raises the errors of `fetch` and
    `read`.
    """
    values: list[T] = []
    fetched = fetch(
        root, file, expected_sha256=expected_sha256, accept=lambda data: values.append(read(data))
    )
    if not values:
        try:
            values.append(read(fetched.path))
        except ValueError as error:
            raise ValueError(
                f"{error} If the file was bad when it was first used, also delete {fetched.lock_key} in "
                f"{root.url}."
            ) from error
    return values[0]


def _request(
    store: ObjectStore, scratch: Path, file: CatalogueFile | str, expected_sha256: str | None
) -> _Request:
    if expected_sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", expected_sha256):
        raise ValueError(f"expected a sha256 of 64 lower-case hex digits, found {expected_sha256!r}")
    if isinstance(file, CatalogueFile):
        if expected_sha256 and file.sha256 and expected_sha256 != file.sha256:
            raise ValueError(
                f"{file.name}: the catalogue has the sha256 {file.sha256}, expected_sha256 is "
                f"{expected_sha256}: give only one of them"
            )
        source = parse_source(file.source) if file.source else None
        sha256 = expected_sha256 or file.sha256
        return _Request(store, scratch, file.name, file.file_name, source, file.page, sha256)
    source = parse_source(file)
    file_name = re.sub(r"[^A-Za-z0-9._=+-]", "_", source.file_name)[-80:].lstrip(".") or "file"
    # A digest of the source distinguishes files of one name without showing a secret; a new signature counts
    # as a new file.
    name = f"{file_name}-{sha256_hex(source.text.encode())[:12]}"
    return _Request(store, scratch, name, file_name, source, source.public, expected_sha256)


def check_unchanged(root: ObjectStore, file: CatalogueFile | str, step: str) -> None:
    """Check that a source still has the content that was locked at first use, as far as possible without a
    download. A source that is unreachable from here counts as unchanged.

    Args:
        step: name of the step made from the file, for the error.

    Raises:
        ValueError: the source has changed; both digests are named.
    """
    request = _request(root, scratch_folder(), file, None)
    lock = read_lock(root, request.name)
    if request.source is None or (isinstance(file, CatalogueFile) and request.source.kind != "file"):
        return  # published files do not change
    if lock is not None and lock.key == request.manual_key:
        return  # the file was put into the root by hand
    now = version(request.source)
    if now is None:
        return
    if lock is None:
        raise ValueError(
            f"{request.name}: expected {lock_key(request.name)} in {root.url}, the record of the file that "
            f"{step} was made from, found none: to use the file that is now at {request.source.public}, "
            f"delete {step} too and run again"
        )
    if difference := _difference(now, lock):
        raise ValueError(
            f"{request.name}: expected the file at {request.source.public} as when it was first used, with "
            f"sha256 {lock.sha256}, found {difference}; restore the earlier file, use another root, or, to "
            f"use the current file, delete {lock_key(request.name)} and {step} in {root.url} and run again"
        )


def _difference(now: Version, lock: Lock) -> str:
    """Describe how a source differs from its lock; empty if no difference is visible."""
    if now.sha256 and now.sha256 != lock.sha256:
        return f"a file with sha256 {now.sha256}"
    if now.size is not None and now.size != lock.bytes:
        return f"a file of {now.size:,} bytes instead of {lock.bytes:,}"
    if now.etag and lock.etag and now.etag != lock.etag:
        return f"another version of the file ({now.etag} instead of {lock.etag})"
    return ""


def _first_use(request: _Request, accept: Callable[[bytes], None] | None) -> Lock:
    """Store the file in the root if it is accepted, and lock its digest."""
    store, name, key = request.store, request.name, request.manual_key
    if store.size(key) is not None:
        origin = f"{store.url}/{key}"
        data = store.get(key)
        sha256, etag = _checked(data, request, origin), ""
        _accepted(data, accept, request)
    else:
        data, sha256, etag = _obtained(request)
        _accepted(data, accept, request)
        key = f"weights/{name}/{sha256[:16]}/{request.file_name}"
        origin = request.source.public if request.source else ""
        store.put(key, data)
    lock = Lock(
        name=name, source=origin, sha256=sha256, bytes=len(data), key=key, created=time.time(), etag=etag
    )
    if not store.create(lock_key(name), canonical_json(lock.model_dump(exclude_none=True)).encode()):
        lock = read_lock(store, name)
        if lock is None or lock.sha256 != sha256:
            raise CorruptObject(
                f"{name}: locked with another sha256 while this process fetched the file ({sha256}); run "
                "again"
            )
    request.download.unlink(missing_ok=True)
    return lock


def _accepted(data: bytes, accept: Callable[[bytes], None] | None, request: _Request) -> None:
    """Call `accept`. If it raises, remove the download, so that the file can be downloaded again."""
    try:
        if accept is not None:
            accept(data)
    except Exception:
        request.download.unlink(missing_ok=True)
        raise


def _from_root(request: _Request, lock: Lock) -> LocalFile | None:
    """The locked file, copied to the scratch folder if the root is not local; None if the root's file is
    missing or differs.
    """
    local = request.store if isinstance(request.store, LocalStore) else None
    copies = request.scratch / "copies" / lock.sha256
    path = copies / Path(lock.key).name if local is None else local.root / lock.key
    if not path.is_file() or digest(path) != lock.sha256:
        if local is not None:
            return None
        try:
            data = request.store.get(lock.key)
        except FileNotFoundError:
            return None
        if sha256_hex(data) != lock.sha256:
            return None
        write_whole(path, data)
    return LocalFile(path, lock.sha256, lock.bytes, lock_key(request.name))


def _repaired(request: _Request, lock: Lock) -> LocalFile:
    """Fetch a file again if the root's copy is lost or altered; store it only if it matches the lock."""
    store = request.store
    size = store.size(lock.key)
    damage = (
        f"{request.name}: expected {lock.bytes} bytes with sha256 {lock.sha256} at {store.url}/{lock.key},"
        f" found {'nothing' if size is None else f'{size} bytes with another sha256'}"
    )
    if request.source is None:
        raise CorruptObject(
            f"{damage}; put the file {request.file_name} of {request.page} there again; or, if the file was "
            f"bad when it was first used, delete {lock_key(request.name)} in {store.url}, put the right file "
            "there, and run again"
        )
    with alone(request.scratch, request.name):
        data, sha256, _ = _obtained(request)
        if sha256 == lock.sha256:
            store.put(lock.key, data)
        request.download.unlink(missing_ok=True)
    if sha256 != lock.sha256:
        raise CorruptObject(
            f"{damage}; fetched again from {request.source.public}, it has the sha256 {sha256}: "
            f"{request.remedy}"
        )
    if file := _from_root(request, lock):
        return file
    raise CorruptObject(f"{damage}, also after a repair; check whether something else writes there")


def _obtained(request: _Request) -> tuple[bytes, str, str]:
    """Read the file from its source once. Returns its bytes, their digest and the source's ETag."""
    if request.source is None:
        store, key = request.store, request.manual_key
        raise ValueError(
            f"{request.name} cannot be downloaded by a program: download {request.file_name} from "
            f"{request.page} with a browser, put it at {as_typed(store)}/{key}, and run again"
        )
    path, etag = obtain(request.source, request.download, unsized=request.sha256 is not None)
    with file_errors(f"read {path}"):
        data = path.read_bytes()
    try:
        return data, _checked(data, request, request.source.public), etag
    except ValueError:
        request.download.unlink(missing_ok=True)
        raise


def _checked(data: bytes, request: _Request, origin: str) -> str:
    """The digest of bytes from `origin`. Raises ValueError for an empty file, a web page, or any other
    unexpected content."""
    if not data:
        raise ValueError(f"{request.name}: expected a weight file from {origin}, found an empty one")
    if lfs.is_pointer(data):
        raise ValueError(
            f"{request.name}: expected a weight file from {origin}, found a Git LFS pointer to it: "
            f"{lfs.REMEDY}, or download the file from the repository's page and give its path, or put it at "
            f"{request.manual_key} in the root"
        )
    if data[:256].removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise ValueError(
            f"{request.name}: expected a weight file from {origin}, found a web page: open {request.page} in "
            "a browser (it may ask for a login or a confirmation), download the file and put it at "
            f"{request.manual_key} in the root"
        )
    if data[:64].lstrip().startswith((b"<?xml", b"<Error", b"{")):
        raise ValueError(
            f"{request.name}: expected a weight file from {origin}, found a text, such as a server's "
            f"refusal: {data[:200].decode(errors='replace')!r}; check the address and your access, or "
            f"download the file by hand and put it at {request.manual_key} in the root"
        )
    sha256 = sha256_hex(data)
    if request.sha256 and request.sha256 != sha256:
        raise ValueError(
            f"{request.name}: expected the sha256 {request.sha256}, found {sha256} ({len(data)} bytes) from "
            f"{origin}: this is another file, or only a part of it, and is not used"
        )
    return sha256


def _mismatch(request: _Request, lock: Lock, other: str) -> CorruptObject:
    return CorruptObject(
        f"{request.name}: locked at first use with sha256 {lock.sha256}, {other}: {request.remedy}"
    )

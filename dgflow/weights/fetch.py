"""A weight file, kept in the root and checked against the sha256 that was locked at its first use.

Every use checks the locked digest, and the digest that the caller or the catalogue knows. What is locked is
never replaced. A file that is in the root needs no network.

    weights/NAME.json                the lock: sha256, size, source and time, written once
    weights/NAME/<sha16>/FILE        the bytes, put there before the lock
    weights/NAME/FILE                where a person puts a file that cannot be downloaded

NAME is the catalogue's, else the file's name and 12 digits of the sha256 of the source as it was given: it
shows no secret, and urls that differ in their query alone are different files.

A file is held in memory once on its way into the root or out of it. From a root that is no local folder, each
host keeps a copy in its scratch folder.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from dgflow.store.identity import canonical_json, sha256_hex
from dgflow.store.local import LocalStore
from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store
from dgflow.store.receipts import CorruptObject
from dgflow.weights.entry import CatalogueFile
from dgflow.weights.lock import Lock, read_lock
from dgflow.weights.scratch import alone, copy_path, digest, file_errors, kept, scratch_folder
from dgflow.weights.sources import Source, obtain, parse_source


@dataclass(frozen=True)
class LocalFile:
    """A file on this host whose content is known. It belongs to the root or to the scratch folder: read it,
    and leave it as it is.

    A file that turns out to be a bad one was locked all the same: an error about it should say that deleting
        `lock_key` in the root, once
    the right file is there to be found, makes the next use a first one.
    """

    path: Path
    sha256: str
    size: int  # bytes
    lock_key: str  # of the record in the root which says that this is the file


@dataclass(frozen=True)
class _Wanted:
    name: str
    file_name: str
    source: Source | None  # None: only by hand
    page: str
    sha256: str | None

    @property
    def folder(self) -> str:
        return f"weights/{self.name}"

    @property
    def lock_key(self) -> str:
        return f"{self.folder}.json"

    @property
    def placed_key(self) -> str:
        return f"{self.folder}/{self.file_name}"


def fetch(
    root: ObjectStore | str,
    file: CatalogueFile | str,
    *,
    expected_sha256: str | None = None,
    scratch: Path | None = None,
) -> LocalFile:
    """The file on this host, complete and checked, from the root if it is there, else from its source, which
    puts it there.

    Args:
        root: the store, or its url.
        file: of the catalogue, or a source as in `dgflow.weights.sources`; a relative path names another file
            in another folder.
        expected_sha256: 64 hex digits, where they are known from elsewhere.
        scratch: folder for downloads and copies, by default `scratch_folder()`.

    Raises:
        ValueError: a source that is not understood; a file that has to be fetched by hand, with where to put
            it; or one that is not the expected one, which is then not kept.
        CorruptObject: the file is not the one that was locked, with both digests.
        FileNotFoundError, StoreError: it cannot be had from its source, or the root cannot be used.
    """
    store = open_store(root) if isinstance(root, str) else root
    scratch = scratch or scratch_folder()
    wanted = _wanted(file, expected_sha256)
    lock = read_lock(store, wanted.lock_key, wanted.name, wanted.folder)
    if lock is None:
        with alone(scratch, wanted.name):
            lock = read_lock(store, wanted.lock_key, wanted.name, wanted.folder) or _first_use(
                store, wanted, scratch
            )
    if wanted.sha256 and wanted.sha256 != lock.sha256:
        raise _mismatch(store, wanted, lock, wanted.sha256, "the expected one")
    here = Path(wanted.source.text) if wanted.source and wanted.source.kind == "file" else None
    if here and os.path.isfile(here) and (found := digest(here)) != lock.sha256:
        raise _mismatch(store, wanted, lock, found, f"the one that is now at {here}")
    return _from_root(store, wanted, lock, scratch) or _repaired(store, wanted, lock, scratch)


def _wanted(file: CatalogueFile | str, expected_sha256: str | None) -> _Wanted:
    if expected_sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", expected_sha256):
        raise ValueError(f"expected a sha256 of 64 lower-case hex digits, found {expected_sha256!r}")
    if isinstance(file, CatalogueFile):
        if expected_sha256 and file.sha256 and expected_sha256 != file.sha256:
            raise ValueError(
                f"{file.name}: the catalogue has the sha256 {file.sha256}, expected_sha256 is "
                f"{expected_sha256}: drop one"
            )
        source = parse_source(file.source) if file.source else None
        return _Wanted(file.name, file.file_name, source, file.page, expected_sha256 or file.sha256)
    source = parse_source(file)
    file_name = re.sub(r"[^A-Za-z0-9._=+-]", "_", source.file_name)[-80:].lstrip(".") or "file"
    # The source is in the name, so that two files of one name from two places do not meet.
    return _Wanted(
        f"{file_name}-{sha256_hex(source.text.encode())[:12]}",
        file_name,
        source,
        source.public,
        expected_sha256,
    )


def _first_use(store: ObjectStore, wanted: _Wanted, scratch: Path) -> Lock:
    """Put the file into the root and lock its digest."""
    if store.size(wanted.placed_key) is not None:
        key, origin = wanted.placed_key, f"{store.url}/{wanted.placed_key}"
        data = store.get(key)
        sha256 = _checked(data, wanted, origin)
    else:
        data, sha256 = _obtained(store, wanted, scratch)
        key, origin = (
            f"{wanted.folder}/{sha256[:16]}/{wanted.file_name}",
            wanted.source.public if wanted.source else "",
        )
        store.put(key, data)
    lock = Lock(name=wanted.name, source=origin, sha256=sha256, bytes=len(data), key=key, created=time.time())
    if not store.create(wanted.lock_key, canonical_json(lock.model_dump()).encode()):
        standing = read_lock(store, wanted.lock_key, wanted.name, wanted.folder)
        if standing is None or standing.sha256 != sha256:
            raise CorruptObject(
                f"{wanted.name}: locked with another sha256 while this process fetched it ({sha256}); run "
                "again"
            )
        lock = standing
    _discard_download(wanted, scratch)
    return lock


def _from_root(store: ObjectStore, wanted: _Wanted, lock: Lock, scratch: Path) -> LocalFile | None:
    """The file, None where the root has none or another one."""
    if isinstance(store, LocalStore):
        path = store.root / lock.key
        return (
            LocalFile(path, lock.sha256, lock.bytes, wanted.lock_key)
            if path.is_file() and digest(path) == lock.sha256
            else None
        )
    path = copy_path(scratch, lock.sha256, Path(lock.key).name)
    if not path.is_file() or digest(path) != lock.sha256:
        try:
            data = store.get(lock.key)
        except FileNotFoundError:
            return None
        if sha256_hex(data) != lock.sha256:
            return None
        path = kept(scratch, data, path.name)
    return LocalFile(path, lock.sha256, lock.bytes, wanted.lock_key)


def _repaired(store: ObjectStore, wanted: _Wanted, lock: Lock, scratch: Path) -> LocalFile:
    """The root's file is lost or altered: fetch it again, once, and keep it only if it is the locked one."""
    size = store.size(lock.key)
    damage = (
        f"{wanted.name}: expected {lock.bytes} bytes with sha256 {lock.sha256} at {store.url}/{lock.key},"
        f" found {'nothing' if size is None else f'{size} bytes that are others'}"
    )
    if wanted.source is None:
        raise CorruptObject(
            f"{damage}; put the file {wanted.file_name} of {wanted.page} there again; or, if the file was "
            "bad when it was first used,"
            f" delete {wanted.lock_key} in {store.url} and run again with the right one there"
        )
    with alone(scratch, wanted.name):
        data, sha256 = _obtained(store, wanted, scratch)
        if sha256 != lock.sha256:
            _discard_download(wanted, scratch)
            raise CorruptObject(
                f"{damage}; fetched again from {wanted.source.public}, it has the sha256 {sha256}: "
                f"{_remedy(store, wanted)}"
            )
        store.put(lock.key, data)
        _discard_download(wanted, scratch)
    if found := _from_root(store, wanted, lock, scratch):
        return found
    raise CorruptObject(f"{damage}, and so again after a repair; see whether something else writes there")


def _obtained(store: ObjectStore, wanted: _Wanted, scratch: Path) -> tuple[bytes, str]:
    """From the source, with its digest; read once, so that these are the bytes that have it."""
    if wanted.source is None:
        raise ValueError(
            f"{wanted.name} cannot be downloaded by a program: get {wanted.file_name} from {wanted.page} "
            f"with a browser and put it at {_place(store, wanted)}, then run again"
        )
    path = obtain(wanted.source, _download(wanted, scratch), unsized=wanted.sha256 is not None)
    with file_errors(f"read {path}"):
        data = path.read_bytes()
    try:
        return data, _checked(data, wanted, wanted.source.public)
    except ValueError:
        _discard_download(wanted, scratch)
        raise


def _checked(data: bytes, wanted: _Wanted, origin: str) -> str:
    """The digest of what came from `origin`.

    Raises ValueError where it is empty, a web page, or another one than the expected one.
    """
    if not data:
        raise ValueError(f"{wanted.name}: expected a weight file from {origin}, found an empty one")
    if data[:256].removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise ValueError(
            f"{wanted.name}: expected a weight file from {origin}, found a web page: open {wanted.page} in "
            "a browser (a login, a"
            f" question?), download the file by hand and put it at {wanted.placed_key} in the root"
        )
    sha256 = sha256_hex(data)
    if wanted.sha256 and wanted.sha256 != sha256:
        raise ValueError(
            f"{wanted.name}: expected the sha256 {wanted.sha256}, found {sha256} ({len(data)} bytes) from "
            f"{origin}: it is not the file that was asked for, or not all of it; it is not used"
        )
    return sha256


def _mismatch(store: ObjectStore, wanted: _Wanted, lock: Lock, found: str, where: str) -> CorruptObject:
    return CorruptObject(
        f"{wanted.name}: locked at first use with sha256 {lock.sha256}, {where} is {found}: "
        f"{_remedy(store, wanted)}"
    )


def _remedy(store: ObjectStore, wanted: _Wanted) -> str:
    return (
        f"bring back the file of then, or, if the other one is meant, delete {wanted.lock_key} in "
        f"{store.url} and run again"
    )


def _place(store: ObjectStore, wanted: _Wanted) -> str:
    return (
        str(store.root / wanted.placed_key)
        if isinstance(store, LocalStore)
        else f"{store.url}/{wanted.placed_key}"
    )


def _download(wanted: _Wanted, scratch: Path) -> Path:
    return scratch / "downloads" / wanted.name / wanted.file_name


def _discard_download(wanted: _Wanted, scratch: Path) -> None:
    _download(wanted, scratch).unlink(missing_ok=True)

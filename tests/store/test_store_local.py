"""A folder of this host: the suite, torn writes, and the errors of a disk."""

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from store.store_suite import StoreSuite, attempts

from dgflow.store.local import LocalStore
from dgflow.store.objects import ObjectStore, StoreError
from dgflow.store.open import open_store


class Crash(BaseException):
    """The writer dies here."""


class TestLocalStore(StoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        return LocalStore(tmp_path / "root")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "root")


def test_a_path_and_its_url_open_the_same_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative = open_store("a folder/100%")
    relative.put("a", b"x")
    assert relative.url == (tmp_path / "a folder" / "100%").as_uri()
    assert open_store(relative.url).get("a") == b"x"
    assert open_store(str(tmp_path / "a folder" / "100%")).url == relative.url
    assert relative.shared is False


def test_opening_a_root_writes_nothing(tmp_path: Path) -> None:
    assert LocalStore(tmp_path / "root").list("") == []
    assert list(tmp_path.iterdir()) == []


def test_new_objects_have_the_permissions_that_the_umask_leaves(store: LocalStore) -> None:
    before = os.umask(0o027)
    try:
        store.put("a", b"x")
    finally:
        os.umask(before)
    assert (store.root / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("operation", ["put", "create"])
@pytest.mark.parametrize("dies_in", ["open", "write", "fsync", "close"])
def test_a_writer_that_dies_before_the_name_is_given_leaves_nothing_visible(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, operation: str, dies_in: str
) -> None:
    store.put("other", b"x")

    def die(*arguments: Any) -> None:
        if dies_in == "write":
            write(arguments[0], bytes(arguments[1])[:3])
        raise Crash

    write = os.write
    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(os, dies_in, die)
        getattr(store, operation)("a/b", b"torn bytes")
    assert [entry.key for entry in store.list("")] == ["other"]
    assert store.size("a/b") is None
    assert store.create("a/b", b"whole") is True


@pytest.mark.parametrize(("operation", "call"), [("put", "replace"), ("create", "link")])
@pytest.mark.parametrize("after", [False, True])
def test_a_writer_that_dies_around_the_naming_leaves_all_or_nothing(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, operation: str, call: str, after: bool
) -> None:
    name = getattr(os, call)

    def die(source: Path, target: Path) -> None:
        if after:
            name(source, target)
        raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(os, call, die)
        getattr(store, operation)("a/b", b"bytes")
    assert [(entry.key, entry.bytes) for entry in store.list("")] == ([("a/b", 5)] if after else [])


@pytest.mark.parametrize("operation", ["put", "create"])
def test_a_process_killed_in_mid_write_leaves_nothing_visible_and_blocks_nobody(
    store: LocalStore, operation: str
) -> None:
    write = os.write
    if (pid := os.fork()) == 0:

        def torn(descriptor: int, data: bytes) -> int:
            write(descriptor, bytes(data)[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
            return 0

        os.write = torn
        getattr(store, operation)("a/b", b"x" * 100_000)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert [path.stat().st_size for path in (store.root / ".tmp").iterdir()] == [50_000]
    assert store.list("") == []
    assert store.create("a/b", b"whole") is True
    assert store.get("a/b") == b"whole"


def test_temporary_files_of_long_dead_writers_are_removed_by_the_next_one(store: LocalStore) -> None:
    store.put("a", b"x")
    old, young = store.root / ".tmp" / "old", store.root / ".tmp" / "young"
    for path in (old, young):
        path.write_bytes(b"torn")
    os.utime(old, (0, 0))
    LocalStore(store.root).put("b", b"x")
    assert (old.exists(), young.exists()) == (False, True)


def test_a_link_that_was_made_although_its_reply_was_lost_counts_as_ours(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS behaves so: the repeated request finds the name that the first one made."""
    link = os.link

    def linked_twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", linked_twice)
    assert store.create("a", b"x") is True


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EDQUOT, "the disk quota is used up; free some space"),
        (errno.EROFS, "the file system is read-only; use a root that can be written to"),
        (errno.EACCES, "permission denied; give this user access"),
        (errno.EIO, "Input/output error; check that the root can be read and written"),
    ],
)
@pytest.mark.parametrize(
    ("operation", "call"), [("put", "write"), ("put", "replace"), ("create", "open"), ("create", "link")]
)
def test_a_failing_disk_is_one_clear_error_that_leaves_nothing(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, operation: str, call: str, number: int, message: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    store.put("other", b"x")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(StoreError) as raised:
            getattr(store, operation)("a/b", b"bytes")
    attempted = "write" if operation == "put" else "create"
    assert str(raised.value).startswith(f"could not {attempted} a/b in {store.url}: {message}")
    assert [entry.key for entry in store.list("")] == ["other"]
    assert list((store.root / ".tmp").iterdir()) == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
def test_a_file_system_without_hard_links_is_named(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(
        StoreError,
        match=r"could not create a in file://.*: the file system does not support hard links; use a root",
    ):
        store.create("a", b"x")


def test_a_file_as_the_root_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("not a folder")
    with pytest.raises(
        StoreError, match=r"could not use it as a root in file://.*/root: the root, or a parent"
    ):
        open_store(str(tmp_path / "root"))


def test_a_root_that_became_a_file_is_named_by_every_operation(store: LocalStore) -> None:
    store.root.write_text("not a folder")
    for attempted, attempt in attempts(store).items():
        reason = "the root, or a parent of it, is a file and not a folder; use a folder"
        message = rf"could not {attempted} in file://.*: {reason}"
        with pytest.raises(StoreError, match=message):
            attempt()


def test_a_root_below_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="the root, or a parent of it, is a file and not a folder"):
        LocalStore(tmp_path / "file" / "root").put("a", b"x")

"""Files into the root and out of it: checked, locked at first use, found again without their source, repaired
only as they were."""

import json
import logging
import threading
import uuid
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from weights.file_server import FileServer

from dgflow.store.memory import MemoryStore
from dgflow.store.objects import ObjectStore, StoreError
from dgflow.store.open import open_store
from dgflow.store.receipts import CorruptObject
from dgflow.weights import fetch as fetching
from dgflow.weights import scratch as scratch_module
from dgflow.weights.entry import CatalogueFile
from dgflow.weights.fetch import LocalFile, check_unchanged, fetch
from dgflow.weights.scratch import alone, scratch_folder

DATA, OTHER = b"weights" * 1000, b"others!" * 1000
SHA, OTHER_SHA = sha256(DATA).hexdigest(), sha256(OTHER).hexdigest()


def _entry(source: str | None, **more: str) -> CatalogueFile:
    facts = {"licence": "none stated", "page": "https://example.org/page"}
    return CatalogueFile(name="net", file_name="net.pt", source=source, **facts, **more)


@pytest.fixture(params=["folder", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "root") if request.param == "folder" else f"memory://{uuid.uuid4().hex}")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


@pytest.fixture
def url(server: FileServer) -> str:
    server.files["/net.pt"] = DATA
    return f"{server.url}/net.pt"


def _lock(root: ObjectStore, name: str = "net") -> dict[str, object]:
    return json.loads(root.get(f"weights/{name}.json"))


def test_a_file_is_put_into_the_root_and_locked(root: ObjectStore, url: str, scratch: Path) -> None:
    found = fetch(root, _entry(url), scratch=scratch)
    assert found.path.read_bytes() == DATA and (found.sha256, found.size) == (SHA, len(DATA))
    lock = _lock(root)
    assert {key: lock[key] for key in ("sha256", "bytes", "source")} == {
        "sha256": SHA,
        "bytes": len(DATA),
        "source": url,
    }
    assert root.get(str(lock["key"])) == DATA


def test_the_second_use_asks_the_root_alone_from_this_host_and_from_another(
    root: ObjectStore, url: str, scratch: Path, tmp_path: Path, server: FileServer
) -> None:
    first = fetch(root, _entry(url), scratch=scratch)
    asked = len(server.requests)
    assert fetch(root, _entry(url), scratch=scratch) == first
    assert fetch(root, _entry(url), scratch=tmp_path / "another host").path.read_bytes() == DATA
    assert len(server.requests) == asked


def test_no_download_is_left_behind(root: ObjectStore, url: str, scratch: Path) -> None:
    fetch(root, _entry(url), scratch=scratch)
    assert not [path for path in (scratch / "downloads").rglob("*") if path.is_file()]


def test_a_source_without_an_entry_is_kept_under_its_file_name_and_place(
    root: ObjectStore, url: str, server: FileServer, scratch: Path
) -> None:
    server.files["/elsewhere/net.pt"] = OTHER
    fetch(root, f"{url}?token=secret", scratch=scratch)
    fetch(root, f"{server.url}/elsewhere/net.pt", scratch=scratch)
    locks = [entry.key for entry in root.list("weights") if entry.key.endswith(".json")]
    assert len(locks) == 2 and all(key.startswith("weights/net.pt-") for key in locks)
    assert not any(b"secret" in root.get(entry.key) for entry in root.list("weights"))


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_file_of_this_host_can_be_the_source(
    root: ObjectStore, tmp_path: Path, scratch: Path, form: str
) -> None:
    (tmp_path / "my net.pt").write_bytes(DATA)
    found = fetch(root, form.format(tmp_path / "my net.pt"), scratch=scratch)
    assert found.path.read_bytes() == DATA and found.path != tmp_path / "my net.pt"


def test_a_path_where_nothing_is_is_an_error_that_names_it(
    root: ObjectStore, tmp_path: Path, scratch: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected a weight file at .*/missing.pt, found nothing"):
        fetch(root, str(tmp_path / "missing.pt"), scratch=scratch)


def test_a_local_file_that_changed_after_its_first_use_is_refused_and_one_that_is_gone_is_not_needed(
    root: ObjectStore, tmp_path: Path, scratch: Path
) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(DATA)
    fetch(root, str(path), scratch=scratch)
    path.write_bytes(OTHER)
    with pytest.raises(
        CorruptObject,
        match=rf"net.pt.*locked at first use with sha256 {SHA}.*net.pt has {OTHER_SHA}: restore .* "
        r"delete weights/net",
    ):
        fetch(root, str(path), scratch=scratch)
    path.unlink()
    assert fetch(root, str(path), scratch=scratch).path.read_bytes() == DATA


def test_a_download_that_is_not_the_expected_one_is_refused_and_neither_kept_nor_locked(
    root: ObjectStore, url: str, scratch: Path
) -> None:
    with pytest.raises(
        ValueError, match=rf"net: expected the sha256 {OTHER_SHA}, found {SHA} \(7000 bytes\) from {url}"
    ):
        fetch(root, _entry(url), expected_sha256=OTHER_SHA, scratch=scratch)
    assert root.list("weights") == []
    assert fetch(root, _entry(url, sha256=SHA), scratch=scratch).sha256 == SHA


def test_an_expectation_that_the_lock_contradicts_is_an_error_with_both_digests(
    root: ObjectStore, url: str, scratch: Path
) -> None:
    fetch(root, _entry(url), scratch=scratch)
    with pytest.raises(
        CorruptObject, match=f"locked at first use with sha256 {SHA}, the expected one is {OTHER_SHA}"
    ):
        fetch(root, _entry(url, sha256=OTHER_SHA), scratch=scratch)


def test_an_empty_file_is_refused(root: ObjectStore, url: str, server: FileServer, scratch: Path) -> None:
    server.files["/net.pt"] = b""
    with pytest.raises(ValueError, match="net: expected a weight file from .*, found an empty one"):
        fetch(root, _entry(url), scratch=scratch)


@pytest.mark.parametrize("damage", [DATA[:100], OTHER, None])
def test_a_damaged_or_lost_file_of_the_root_is_fetched_again_once(
    root: ObjectStore, url: str, server: FileServer, scratch: Path, tmp_path: Path, damage: bytes | None
) -> None:
    fetch(root, _entry(url), scratch=scratch)
    _damage(root, damage)
    asked = len(server.requests)
    assert fetch(root, _entry(url), scratch=tmp_path / "another host").path.read_bytes() == DATA
    assert len(server.requests) == asked + 1 and root.get(str(_lock(root)["key"])) == DATA


def test_a_source_that_changed_does_not_repair_and_the_error_has_both_digests(
    root: ObjectStore, url: str, server: FileServer, scratch: Path, tmp_path: Path
) -> None:
    fetch(root, _entry(url), scratch=scratch)
    _damage(root, DATA[:100])
    server.files["/net.pt"] = OTHER
    with pytest.raises(
        CorruptObject,
        match=rf"net: expected 7000 bytes with sha256 {SHA} at .*, found 100 bytes.*sha256 {OTHER_SHA}: "
        r"restore",
    ):
        fetch(root, _entry(url), scratch=tmp_path / "another host")
    assert root.get(str(_lock(root)["key"])) == DATA[:100]


def _damage(root: ObjectStore, data: bytes | None) -> None:
    key = str(_lock(root)["key"])
    if data is None:
        root.delete(key)
    else:
        root.put(key, data)


def test_a_damaged_copy_on_this_host_is_replaced_from_the_root(url: str, scratch: Path) -> None:
    root = MemoryStore(uuid.uuid4().hex)
    found = fetch(root, _entry(url), scratch=scratch)
    found.path.write_bytes(OTHER)
    assert fetch(root, _entry(url), scratch=scratch).path.read_bytes() == DATA


def test_a_file_for_the_hand_names_the_page_the_file_and_the_place_and_is_then_used_from_there(
    root: ObjectStore, scratch: Path
) -> None:
    place = "weights/net/net.pt"
    with pytest.raises(
        ValueError,
        match=r"net cannot be downloaded .* download net.pt from https://example.org/page .* put it at .*"
        + place,
    ):
        fetch(root, _entry(None), scratch=scratch)
    root.put(place, DATA)
    assert fetch(root, _entry(None), scratch=scratch).path.read_bytes() == DATA
    assert _lock(root)["key"] == place
    root.put(place, OTHER)
    with pytest.raises(
        CorruptObject,
        match=rf"sha256 {SHA} at .*{place}, found 7000 bytes with another sha256; put the file net.pt of "
        r"https://",
    ):
        fetch(root, _entry(None), scratch=scratch / "another host")


def test_a_file_that_somebody_put_in_its_place_needs_no_download(
    root: ObjectStore, url: str, server: FileServer, scratch: Path
) -> None:
    root.put("weights/net/net.pt", DATA)
    assert fetch(root, _entry(url), scratch=scratch).sha256 == SHA and not server.requests


def test_two_urls_that_differ_in_their_query_alone_are_two_files(
    root: ObjectStore, url: str, server: FileServer, scratch: Path
) -> None:
    first = fetch(root, f"{url}?id=1", scratch=scratch)
    server.files["/net.pt"] = OTHER
    second = fetch(root, f"{url}?id=2", scratch=scratch)
    assert first.path.read_bytes() == DATA and second.path.read_bytes() == OTHER


def test_a_file_says_which_lock_it_was_checked_against(root: ObjectStore, url: str, scratch: Path) -> None:
    assert json.loads(root.get(fetch(root, url, scratch=scratch).lock_key))["sha256"] == SHA


PAGE = b"\n<!DOCTYPE html><html>Google Drive - Virus scan warning"


def test_a_web_page_put_there_by_hand_is_refused_and_not_locked(root: ObjectStore, scratch: Path) -> None:
    root.put("weights/net/net.pt", PAGE)
    with pytest.raises(
        ValueError,
        match=r"net: expected a weight file from .*net.pt, found a web page: open https://example.org/page",
    ):
        fetch(root, _entry(None), scratch=scratch)
    root.put("weights/net/net.pt", DATA)
    assert fetch(root, _entry(None), scratch=scratch).sha256 == SHA


def test_a_web_page_from_elsewhere_is_refused_and_neither_kept_nor_locked(
    root: ObjectStore, url: str, server: FileServer, scratch: Path
) -> None:
    server.files["/net.pt"] = PAGE
    with pytest.raises(ValueError, match="found a web page"):
        fetch(root, _entry(url), scratch=scratch)
    assert root.list("weights") == []


def test_a_file_put_there_by_hand_that_was_bad_at_first_use_has_a_way_out(
    root: ObjectStore, scratch: Path
) -> None:
    root.put("weights/net/net.pt", OTHER)
    fetch(root, _entry(None), scratch=scratch)
    root.put("weights/net/net.pt", DATA)
    with pytest.raises(
        CorruptObject, match="if the file was bad when it was first used, delete weights/net.json in"
    ):
        fetch(root, _entry(None), scratch=scratch / "another host")
    root.delete("weights/net.json")
    assert fetch(root, _entry(None), scratch=scratch).sha256 == SHA


@pytest.mark.parametrize(
    "change", [{"key": "weights/net/../../secret"}, {"key": "weights/other/net.pt"}, {"name": "other"}]
)
def test_a_lock_that_leads_elsewhere_is_refused(
    root: ObjectStore, url: str, scratch: Path, change: dict[str, str]
) -> None:
    fetch(root, _entry(url), scratch=scratch)
    lock = {**_lock(root), **change}
    root.put("weights/net.json", json.dumps(lock).encode())
    with pytest.raises(
        CorruptObject,
        match=r"weights/net.json in .*expected the lock of net and a file below weights/net/, found",
    ):
        fetch(root, _entry(url), scratch=scratch)


def test_a_local_file_that_changes_while_it_is_taken_is_kept_as_it_was_locked(
    root: ObjectStore, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(DATA)
    checked = fetching._checked

    def then_changed(*arguments: Any) -> str:
        sha256 = checked(*arguments)
        path.write_bytes(OTHER)
        return sha256

    monkeypatch.setattr(fetching, "_checked", then_changed)
    with pytest.raises(CorruptObject, match=f"locked at first use with sha256 {SHA}, .* has {OTHER_SHA}"):
        fetch(root, str(path), scratch=scratch)
    path.unlink()
    assert fetch(root, str(path), scratch=scratch).path.read_bytes() == DATA


def test_a_very_long_file_name_is_shortened(root: ObjectStore, tmp_path: Path, scratch: Path) -> None:
    path = tmp_path / f"{'n' * 240}.pt"
    path.write_bytes(DATA)
    found = fetch(root, str(path), scratch=scratch)
    assert (
        found.path.read_bytes() == DATA and found.path.name.endswith("nnn.pt") and len(found.path.name) == 80
    )


def test_a_scratch_folder_that_cannot_be_written_is_named_with_what_to_do(
    url: str, scratch: Path, root: ObjectStore
) -> None:
    scratch.write_text("a file")
    with pytest.raises(
        StoreError, match=rf"could not write {scratch}/net.lock: .*set XDG_CACHE_HOME to another folder"
    ):
        fetch(root, _entry(url), scratch=scratch)


def test_who_waits_for_another_process_says_so(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch_module, "NOTICE_AFTER", 0.0)
    said, entered = threading.Event(), threading.Event()
    lines: list[str] = []

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())
            said.set()

    def second() -> None:
        with alone(scratch, "net"):
            entered.set()

    handler, log = Listening(), logging.getLogger("dgflow.weights.scratch")
    with alone(scratch, "net"):
        log.addHandler(handler)
        try:
            waiting = threading.Thread(target=second)
            waiting.start()
            assert said.wait(10) and not entered.is_set()
        finally:
            log.removeHandler(handler)
    waiting.join(10)
    assert entered.is_set() and f"{scratch}/net.lock" in lines[-1]


def test_two_that_fetch_at_once_end_with_one_lock_and_the_same_file(
    root: ObjectStore, url: str, server: FileServer, scratch: Path
) -> None:
    found: list[LocalFile] = []
    threads = [
        threading.Thread(
            target=lambda i=i: found.append(fetch(root, _entry(url), scratch=scratch / str(i % 2)))
        )
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [file.sha256 for file in found] == [SHA] * 4 and 1 <= len(server.requests) <= 2


def test_a_race_lost_to_other_bytes_is_an_error_and_leaves_the_winner_s(
    url: str, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = MemoryStore(uuid.uuid4().hex)
    create = root.create

    def slower(key: str, data: bytes) -> bool:
        if key == "weights/net.json":
            create(key, data.replace(SHA.encode(), OTHER_SHA.encode()))
        return create(key, data)

    monkeypatch.setattr(root, "create", slower)
    with pytest.raises(
        CorruptObject, match="net: locked with another sha256 while this process fetched the file"
    ):
        fetch(root, _entry(url), scratch=scratch)
    assert _lock(root)["sha256"] == OTHER_SHA


def test_a_crash_between_the_file_and_its_lock_is_made_good_by_the_next_run(
    url: str, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = MemoryStore(uuid.uuid4().hex)

    def crash(key: str, data: bytes) -> bool:
        raise StoreError("gone")

    with monkeypatch.context() as patched:
        patched.setattr(root, "create", crash)
        with pytest.raises(StoreError):
            fetch(root, _entry(url), scratch=scratch)
    assert fetch(root, _entry(url), scratch=scratch).path.read_bytes() == DATA


def test_a_lock_that_is_none_is_named(root: ObjectStore, url: str, scratch: Path) -> None:
    root.put("weights/net.json", b'{"sha256": "12"}')
    with pytest.raises(CorruptObject, match="weights/net.json in .*expected the lock of a weight file"):
        fetch(root, _entry(url), scratch=scratch)


def test_the_scratch_folder_is_the_user_s_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert scratch_folder() == tmp_path / "dgflow" / "weights"


def test_a_root_on_s3_takes_a_file_from_s3_and_gives_it_to_every_host(tmp_path: Path, s3_url: str) -> None:
    open_store(f"{s3_url}/published").put("net.pt", DATA)
    found = fetch(f"{s3_url}/root", f"{s3_url}/published/net.pt", scratch=tmp_path / "one")
    check_unchanged(open_store(f"{s3_url}/root"), f"{s3_url}/published/net.pt", "pretrained-1")
    open_store(f"{s3_url}/published").put("net.pt", DATA[::-1])  # of the same size
    with pytest.raises(ValueError, match="found another version of the file"):
        check_unchanged(open_store(f"{s3_url}/root"), f"{s3_url}/published/net.pt", "pretrained-1")
    open_store(f"{s3_url}/published").delete("net.pt")
    again = fetch(f"{s3_url}/root", f"{s3_url}/published/net.pt", scratch=tmp_path / "two")
    assert found.path.read_bytes() == again.path.read_bytes() == DATA
    with pytest.raises(FileNotFoundError, match=r"no object 'other.pt'"):
        fetch(f"{s3_url}/root", f"{s3_url}/published/other.pt", scratch=tmp_path / "one")


def test_a_file_that_is_not_accepted_is_neither_kept_nor_locked_and_the_right_one_follows(
    root: ObjectStore, url: str, server: FileServer, scratch: Path
) -> None:
    def refuse(data: bytes) -> None:
        raise ValueError(f"{len(data)} bytes that do not fit")

    with pytest.raises(ValueError, match="do not fit"):
        fetch(root, url, scratch=scratch, accept=refuse)
    assert not root.list("weights") and not list(scratch.rglob("net.pt"))
    server.files["/net.pt"] = DATA[::-1]
    assert (
        fetch(root, url, scratch=scratch, accept=lambda data: None).sha256 == sha256(DATA[::-1]).hexdigest()
    )


def test_a_pointer_of_git_lfs_is_recognised_and_not_locked(root: ObjectStore, tmp_path: Path) -> None:
    pointer = tmp_path / "net.pt"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12\n")
    with pytest.raises(ValueError, match=r"found a Git LFS pointer to it: .*git lfs pull"):
        fetch(root, str(pointer), scratch=tmp_path / "scratch")
    assert not root.list("weights")


@pytest.mark.parametrize(
    "text", ['<?xml version="1.0"?><Error><Code>AccessDenied</Code>', '{"error": "gated"}']
)
def test_the_text_of_a_refusal_is_no_weight_file(root: ObjectStore, tmp_path: Path, text: str) -> None:
    (tmp_path / "net.pt").write_text(text)
    with pytest.raises(ValueError, match="found a text, such as a server's refusal: .*rror"):
        fetch(root, str(tmp_path / "net.pt"), scratch=tmp_path / "scratch")
    assert not root.list("weights")


def test_a_download_that_the_server_says_is_another_now_is_a_change(
    root: ObjectStore, url: str, server: FileServer, scratch: Path
) -> None:
    server.headers["ETag"] = '"one"'
    locked = fetch(root, url, scratch=scratch)
    check_unchanged(root, url, "pretrained-1")
    server.headers["ETag"] = '"two"'
    with pytest.raises(
        ValueError, match=f"{locked.sha256}, found another version of the file .*two.* instead of"
    ):
        check_unchanged(root, url, "pretrained-1")
    server.files["/net.pt"] = DATA[:-1]
    with pytest.raises(ValueError, match=f"{len(DATA) - 1:,} bytes instead of {len(DATA):,}"):
        check_unchanged(root, url, "pretrained-1")
    del server.files["/net.pt"]
    check_unchanged(root, url, "pretrained-1")  # a server that does not have it, or does not answer


def test_a_local_file_of_another_size_is_a_change_with_both_digests(
    root: ObjectStore, tmp_path: Path
) -> None:
    (tmp_path / "net.pt").write_bytes(DATA)
    fetch(root, str(tmp_path / "net.pt"), scratch=tmp_path / "scratch")
    (tmp_path / "net.pt").write_bytes(OTHER * 2)
    with pytest.raises(ValueError, match=f"{SHA}, found a file with sha256 {sha256(OTHER * 2).hexdigest()}"):
        check_unchanged(root, str(tmp_path / "net.pt"), "pretrained-1")

"""Large weights are fetched once per host, whatever happens to the file that its processes share."""

import os
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from dgflow.store.memory import MemoryStore
from dgflow.store.receipts import CorruptObject, Receipt
from dgflow.store.step_store import StepStore
from dgflow.weights import host_copies
from dgflow.weights.host_copies import committed_weights
from dgflow.weights.tensors import save_weights

DISK = shutil.disk_usage("/")._replace(total=10**12, used=5 * 10**11, free=5 * 10**11)


class Watched(MemoryStore):
    """A store that other hosts see; it counts reads of data, the first of which waits for `gate`."""

    shared = True

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.reads, self.gate = 0, threading.Event()
        self.gate.set()

    def get(self, key: str) -> bytes:
        if key.endswith(".safetensors"):
            self.reads += 1
            assert self.gate.wait(60)
        return super().get(key)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """A store for a host whose disk is half full, whatever the disk of the tests is."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DISK)
    monkeypatch.setattr(host_copies, "LEAST_BYTES", 1_000)
    return Watched(tmp_path.name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / f"dgflow-{os.getuid()}" / "weights"


def commit(store: Watched, number: int = 0) -> tuple[StepStore, Receipt, dict[str, torch.Tensor]]:
    """Weights of 40 kB, of which the second is not aligned to its numbers' size in the file."""
    generator = torch.Generator().manual_seed(number)
    tensors = {
        "a": torch.randint(0, 2, (7,), generator=generator, dtype=torch.uint8),
        "b": torch.randn(100, 100, generator=generator),
        "c": torch.randn(3, 5, generator=generator).bfloat16(),
    }
    step_store = StepStore(store, "pretrained", 64 * "a")
    about = {"rows_sha256": 64 * "b", "inputs": {}, "seconds": 0.0, "device": "cpu", "versions": {}}
    receipt = step_store.commit("epochs", number, save_weights(tensors), suffix="safetensors", **about)
    return step_store, receipt, tensors


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_workers_of_a_host_fetch_weights_once_and_get_the_committed_bits(store, folder):
    """Four at the same time, while the first one's read takes as long as it likes."""
    step_store, receipt, tensors = commit(store)
    store.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(committed_weights, step_store, receipt) for _ in range(4)]
        store.gate.set()
        assert all(same(worker.result(), tensors) for worker in workers)
    assert store.reads == 1
    (file,) = folder.glob("*.safetensors")
    assert receipt.sha256 in file.name and file.stat().st_size == receipt.bytes
    assert not list(folder.glob(".*"))


def test_what_one_worker_changes_no_other_sees(store):
    step_store, receipt, tensors = commit(store)
    first, second = (committed_weights(step_store, receipt) for _ in range(2))
    first["b"].zero_()
    assert same(second, tensors) and same(committed_weights(step_store, receipt), tensors)


@pytest.mark.parametrize(("shared", "least"), [(False, 1_000), (True, 10**6)])
def test_a_root_on_this_host_and_small_weights_leave_no_file(store, folder, monkeypatch, shared, least):
    monkeypatch.setattr(Watched, "shared", shared)
    monkeypatch.setattr(host_copies, "LEAST_BYTES", least)
    step_store, receipt, tensors = commit(store)
    assert all(same(committed_weights(step_store, receipt), tensors) for _ in range(2))
    assert store.reads == 2 and not folder.exists()


def test_a_file_that_was_cut_or_has_another_header_is_fetched_again(store, folder):
    step_store, receipt, tensors = commit(store)
    committed_weights(step_store, receipt)
    (file,) = folder.glob("*.safetensors")
    data = file.read_bytes()
    for torn in (data[:1_000], bytes(len(data))):
        file.write_bytes(torn)
        assert same(committed_weights(step_store, receipt), tensors)
        assert file.read_bytes() == data
    assert store.reads == 3


def test_what_a_crash_of_the_host_or_of_a_writer_left_is_not_used(store, folder, monkeypatch):
    """A file of another boot may be torn though it has its size; that of a dead writer is removed."""
    step_store, receipt, tensors = commit(store)
    monkeypatch.setattr(host_copies, "_boot", lambda: "before")
    committed_weights(step_store, receipt)
    (file,) = folder.glob("*.safetensors")
    torn = file.read_bytes()[:-100] + bytes(100)
    file.write_bytes(torn)
    (folder / ".0123").write_bytes(b"half")
    monkeypatch.setattr(host_copies, "_boot", lambda: "now")
    assert same(committed_weights(step_store, receipt), tensors)
    assert store.reads == 2 and not (folder / ".0123").exists()


def test_data_that_is_not_what_was_committed_is_refused_and_not_kept(store, folder):
    step_store, receipt, _ = commit(store)
    store.put(receipt.key, store.get(receipt.key)[:-1] + b"x")
    with pytest.raises(CorruptObject, match="found 40"):
        committed_weights(step_store, receipt)
    assert not list(folder.glob("*.safetensors"))


def test_the_files_that_were_used_last_stay(store, folder, monkeypatch):
    commits = [commit(store, number) for number in range(3)]
    monkeypatch.setattr(host_copies, "MOST_BYTES", 2 * commits[0][1].bytes)
    for clock, number in enumerate((0, 1, 0, 2)):
        step_store, receipt, tensors = commits[number]
        kept = committed_weights(step_store, receipt)
        (file,) = folder.glob(f"*{receipt.sha256}*")
        os.utime(file, (clock, clock))
        assert same(kept, tensors)
    left = {file.name.rpartition("-")[2].partition(".")[0] for file in folder.glob("*.safetensors")}
    assert left == {commits[0][1].sha256, commits[2][1].sha256} and store.reads == 3


@pytest.mark.parametrize("fault", ["full", "fills", "foreign", "link", "writable", "file"])
def test_without_a_folder_or_room_each_process_reads_for_itself(fault, store, folder, tmp_path, monkeypatch):
    step_store, receipt, tensors = commit(store)
    match fault:
        case "full":  # as of a quota: the disk says so when it is written
            monkeypatch.setattr(
                Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError(28, "no space"))
            )
        case "fills":
            monkeypatch.setattr(shutil, "disk_usage", lambda _: DISK._replace(free=DISK.total // 10))
        case "foreign":
            other = os.getuid() + 1
            monkeypatch.setattr(os, "getuid", lambda: other)
            (tmp_path / f"dgflow-{other}").mkdir()
        case "link":
            (tmp_path / "elsewhere").mkdir()
            folder.parent.symlink_to(tmp_path / "elsewhere")
        case "writable":
            folder.parent.mkdir()
            folder.parent.chmod(0o777)
        case "file":
            folder.parent.write_text("in the way")
    assert all(same(committed_weights(step_store, receipt), tensors) for _ in range(2))
    assert store.reads == 2 and not list(tmp_path.rglob("*.safetensors"))

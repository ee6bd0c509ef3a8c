"""Real processes that are killed: the same command again completes, builds only what was missing, and ends
with the same bits.

The bits are those of the samples and the weights.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from e2e import driver
from inprocess import complete
from notes import attempts

from dgflow.engine.root import Root
from dgflow.store.open import open_store
from dgflow.store.receipts import Receipt
from dgflow.store.step_store import StepStore

DEADLINE = 600.0  # seconds, the timeout of every wait
pytestmark = pytest.mark.usefixtures("own_ray")


class Run:
    """A driver process and the root that it works on."""

    def __init__(self, what: str, root: Path, source: Path, log: str = "") -> None:
        self.output = root.parent / f"{log or root.name}.log"
        self.process = subprocess.Popen(
            [sys.executable, driver.__file__, what, str(root), str(source)],
            stdout=self.output.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait_for(self, condition, what: str):
        """Polls until `condition()` is true; the run may not end before."""
        deadline = time.monotonic() + DEADLINE
        while not (found := condition()):
            assert self.process.poll() is None, f"the run ended before {what}:\n{self.output.read_text()}"
            assert time.monotonic() < deadline, f"no {what} after {DEADLINE} s:\n{self.output.read_text()}"
            time.sleep(0.02)
        return found

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def finish(self) -> str:
        status = self.process.wait(timeout=DEADLINE)
        assert status == 0, self.output.read_text()
        return self.output.read_text()


def steps_of(root: Path, step) -> StepStore:
    return Root(open_store(str(root))).step_store(step)


def receipts(root: Path, step, folder: str) -> dict[int, Receipt]:
    """Returns the receipts by number, as written: one per part, or the test fails."""
    steps = steps_of(root, step)
    committed = steps.committed(folder)
    assert all(len(keys) == 1 for keys in committed.values())
    return {number: steps.receipt(next(iter(keys.values()))) for number, keys in committed.items()}


def digests(root: Path, step, folder: str) -> dict[int, str]:
    return {number: receipt.rows_sha256 for number, receipt in receipts(root, step, folder).items()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny.write_images(tmp_path_factory.mktemp("images") / "images.npz")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, source):
    """Returns a root with a trained score network."""
    root = tmp_path_factory.mktemp("trained") / "root"
    complete(tiny.score(source), open_store(str(root)))
    return root


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, source, trained):
    """Returns the same root, completed without disturbance: in this process, with one thread as in Ray's
    workers."""
    root = tmp_path_factory.mktemp("undisturbed") / "root"
    shutil.copytree(trained, root)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    complete(driver.target("samples", source), open_store(str(root)))
    torch.set_num_threads(threads)
    return root


def samples(source):
    target = driver.target("samples", source)
    assert isinstance(target, driver.Counted)
    return target.samples.step


@pytest.fixture(scope="module")
def killed(tmp_path_factory, source, trained):
    """Returns a root whose driver is killed while it samples, and a worker of the driver after it; with the
    receipts that the first left, and the output of the second."""
    root = tmp_path_factory.mktemp("killed") / "root"
    shutil.copytree(trained, root)
    steps = steps_of(root, samples(source))
    first = Run("samples", root, source)
    first.wait_for(lambda: len(steps.committed("shards")) >= 3, "third shard")
    first.kill()
    before = receipts(root, samples(source), "shards")
    workers = {record["pid"] for record in attempts(steps, "shards").values()}
    second, began = Run("samples", root, source), time.time()

    def in_flight():
        committed = steps.committed("shards")
        return [
            record["pid"]
            for number, record in attempts(steps, "shards").items()
            if number not in committed and record["pid"] not in workers and record["started"] > began
        ]

    os.kill(second.wait_for(in_flight, "shard in flight")[0], signal.SIGKILL)
    return SimpleNamespace(root=root, before=before, output=second.finish())


def test_killing_the_driver_while_it_samples_loses_only_what_was_in_flight(killed, source, undisturbed):
    assert 3 <= len(killed.before) < driver.SHARDS
    after = receipts(killed.root, samples(source), "shards")
    assert len(after) == driver.SHARDS
    assert {
        number: after[number] for number in killed.before
    } == killed.before  # not built again: the identical receipts, including times
    assert digests(killed.root, samples(source), "shards") == digests(undisturbed, samples(source), "shards")
    assert steps_of(killed.root, samples(source)).store.list(f"{samples(source).name}/manifests")


def test_killing_a_worker_in_mid_shard_costs_that_shard_another_attempt(killed, source, undisturbed):
    everything = len(receipts(killed.root, samples(source), "shards")) == driver.SHARDS
    assert "attempt 1 of 3" in killed.output or everything
    assert digests(killed.root, samples(source), "shards") == digests(undisturbed, samples(source), "shards")


@pytest.mark.slow
def test_killing_a_worker_in_training_goes_on_from_the_last_whole_checkpoint_with_the_same_bits(
    tmp_path, source
):
    step = driver.target("long", source)
    run = Run("long", tmp_path / "killed", source)
    steps = steps_of(tmp_path / "killed", step)
    run.wait_for(lambda: len(steps.committed("epochs")) >= 4, "fourth epoch")
    os.kill(max(attempts(steps, "epochs").items())[1]["pid"], signal.SIGKILL)
    output = run.finish()
    assert "try 1 of 3" in output
    killed_again = Run("long", tmp_path / "driver", source)
    steps = steps_of(tmp_path / "driver", step)
    killed_again.wait_for(lambda: len(steps.committed("epochs")) >= 4, "fourth epoch")
    killed_again.kill()
    before = receipts(tmp_path / "driver", step, "epochs")
    assert len(before) < driver.EPOCHS
    Run("long", tmp_path / "driver", source).finish()
    after = receipts(tmp_path / "driver", step, "epochs")
    assert {number: after[number] for number in before} == before
    # Two runs, disturbed in different places, agree in every epoch, and with the undisturbed one's first two.
    assert digests(tmp_path / "driver", step, "epochs") == digests(tmp_path / "killed", step, "epochs")
    assert len(after) == driver.EPOCHS


def tree(pid: int) -> list[int]:
    """Returns a process and all below it; processes that end meanwhile have none."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [pid, *(below for child in map(int, children) for below in tree(child))]


@pytest.mark.slow
def test_a_driver_that_is_stopped_is_followed_by_another_and_waits_when_it_comes_back(
    tmp_path, source, monkeypatch
):
    """The driver is stopped with its workers. Both drivers end successfully, and each epoch is committed
    once."""
    monkeypatch.setenv("STALE_SECONDS", "10")
    step, root = driver.target("long", source), tmp_path / "root"
    steps = steps_of(root, step)
    first = Run("long", root, source)
    first.wait_for(lambda: len(steps.committed("epochs")) >= 2, "second epoch")
    stopped = tree(first.process.pid)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    committed = receipts(root, step, "epochs")
    before = len(committed)
    assert before < driver.EPOCHS, "the first ended too soon to be stopped"
    second = Run("long", root, source, log="second")
    try:
        second.wait_for(lambda: len(steps.committed("epochs")) >= before + 2, "epochs of the second")
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    second.finish()
    first.finish()
    found = receipts(root, step, "epochs")
    assert len(found) == driver.EPOCHS
    assert {number: found[number] for number in committed} == committed


@pytest.mark.slow
def test_the_epochs_of_a_killed_training_equal_those_of_an_undisturbed_one(trained, source, tmp_path):
    """`trained` ran undisturbed for two epochs. More epochs of the same step, with its driver killed, keep
    them and continue from them."""
    shutil.copytree(trained, tmp_path / "root")
    step = driver.target("long", source)
    run = Run("long", tmp_path / "root", source)
    steps = steps_of(tmp_path / "root", step)
    run.wait_for(lambda: len(steps.committed("epochs")) >= 5, "fifth epoch")
    run.kill()
    before = digests(trained, step, "epochs")
    assert {
        number: digest
        for number, digest in digests(tmp_path / "root", step, "epochs").items()
        if number in before
    } == before

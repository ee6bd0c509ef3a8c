"""Roots and fingerprints that people have stay valid: those of dgflow at f502e90.

`recipe.py` made the root, `fingerprints.py` the fingerprints.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from dgflow import Evaluate
from dgflow.cli.recipe import application
from dgflow.cli.tool import main as tool
from dgflow.engine.plan import plan, step_plan
from dgflow.engine.root import Root
from dgflow.engine.shard_work import shard_work
from dgflow.images.sources import open_images
from dgflow.specs.graph import graph
from dgflow.specs.step import SampleStep
from dgflow.store.open import open_store

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from fingerprints import fingerprints, recipe  # noqa: E402  # pyright: ignore[reportMissingImports]

MADE_ON = "GenuineIntel 6 167 AVX512 "
EXPECTED = json.loads((HERE / "fingerprints.json").read_text())


def cpu() -> str:
    """Returns the facts that decide rounding: the CPU's model, and the instructions that torch and oneDNN
    use."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    kind = [told.get(name, "") for name in ("vendor_id", "cpu family", "model")]
    return " ".join(
        [*kind, torch.backends.cpu.get_cpu_capability(), os.environ.get("ONEDNN_MAX_CPU_ISA", "")]
    )


@pytest.fixture(scope="module")
def current() -> dict:
    return fingerprints()


@pytest.mark.parametrize("section", EXPECTED)
def test_fingerprints_are_those_of_the_roots_that_people_have(section: str, current: dict) -> None:
    assert current[section] == EXPECTED[section]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with tarfile.open(HERE / "root.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "root"


@pytest.fixture
def target() -> Evaluate:
    return recipe(HERE / "recipe.py")()


def called(root: Path, *arguments: str) -> tuple[int, str]:
    """Exit status and output of a command of the recipe."""
    done = CliRunner().invoke(
        application(recipe(HERE / "recipe.py"), "recipe"), [*arguments, "--root", str(root)]
    )
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code if done.return_value is None else done.return_value, done.output


def files(root: Path) -> dict[str, str]:
    """Digest of every file of the root but the page."""
    paths = (path for path in root.rglob("*") if path.is_file() and path.name != "report.html")
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_every_step_is_reused_and_a_second_run_writes_nothing_but_the_page(
    root: Path, target: Evaluate
) -> None:
    before = files(root)
    assert {state.action for state in plan(target, open_store(str(root)))} == {"reuse"}
    assert called(root, "run")[0] == 0
    assert files(root) == before


def test_status_verify_and_report_read_it(root: Path) -> None:
    assert called(root, "status")[0] == 0
    status, output = called(root, "verify")
    assert status == 0 and "0 damaged, 0 missing" in output
    assert called(root, "report")[0] == 0
    assert "guided" in (root / "report.html").read_text()


def test_samples_and_features_are_read_by_the_evaluator(
    root: Path,
    target: Evaluate,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """FID of two exported statistics is what the root's own `Measure` says."""
    guided = target.arms["guided"][0]
    images = open_images(str(root / guided.step.name))
    assert images.rows == guided.rows and images.read(0, 1)[0].shape == (14, 14, 1)

    store = open_store(str(root))
    by_name = {node.step.name: node.step for node in graph(target)}
    measure = next(reference.step for name, reference in target.inputs().items() if name == "arms.guided.0")
    read = {name: reference.step.name for name, reference in measure.inputs().items()}
    assert set(read.values()) <= set(by_name)
    for name in ("samples", "reference"):
        monkeypatch.setattr(
            sys, "argv", ["dgflow", "export", str(root / read[name]), str(tmp_path / f"{name}.npz")]
        )
        with pytest.raises(SystemExit) as done:
            tool()
        assert done.value.code == 0
    capsys.readouterr()
    paths = [str(tmp_path / "samples.npz"), str(tmp_path / "reference.npz")]
    monkeypatch.setattr(sys, "argv", ["dgflow", "metrics", *paths, "--protocol", "edm", "--json"])
    with pytest.raises(SystemExit) as done:
        tool()
    assert done.value.code == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    steps = Root(store).step_store(measure)
    (receipt,) = (key for keys in steps.committed("results").values() for key in keys.values())
    expected = json.loads(steps.read(steps.receipt(receipt)))
    assert found["values"]["fid"] == pytest.approx(expected["values"]["fid"], rel=1e-9)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute with one thread, as the workers that made the root: sums in another order round otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_deleted_shards_are_rebuilt_to_the_same_rows(root: Path, target: Evaluate) -> None:
    """Imported images exactly; samples exactly on the kind of CPU that made the root, and nearly on
    others."""
    store, exact = open_store(str(root)), cpu() == MADE_ON
    view, known = Root(store), {}
    for state in [step_plan(view, node, known) for node in graph(target)]:
        step, steps = state.step, view.step_store(state.step)
        if not isinstance(step, SampleStep) or step.kind not in ("import-images", "generate"):
            continue
        assert state.bound is not None
        receipts = {number: steps.receipt(key) for number, key in state.done.items()}
        rows = {number: steps.read_shard(receipt) for number, receipt in receipts.items()}
        for number, key in state.done.items():
            steps.discard(key)
            assert not steps.is_committed("shards", number, state.bound.digests)
        work = shard_work(step, steps, state.bound)
        for number, key in state.done.items():
            work(number)
            rebuilt = steps.receipt(key)
            same = rebuilt.rows_sha256 == receipts[number].rows_sha256
            if exact or step.kind == "import-images":
                assert same, f"{step.title}, shard {number}: expected the very rows of before"
                continue
            found = steps.read_shard(rebuilt)
            for column in ("index", "label"):
                np.testing.assert_array_equal(found[column], rows[number][column])
            difference = np.abs(found["image"].astype(int) - rows[number]["image"].astype(int))
            assert difference.mean() < 0.05 and difference.max() <= 8, (
                "expected the same samples but for rounding"
            )
    if exact:
        assert called(root, "verify")[0] == 0

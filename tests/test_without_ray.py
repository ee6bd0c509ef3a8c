"""dgflow where packages are missing: what is light needs none of the extras, what trains nothing runs on
processes without Ray, and all else says what to install."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import tiny
from fragile import Fragile
from inprocess import complete
from tool_command import ADM, NO_CLOUD, made, write_images, write_statistics

from dgflow.cli.guard import guarded
from dgflow.engine.execute import execute
from dgflow.extras import EXTRAS, explained, require
from dgflow.runtime.placement import Placement
from dgflow.runtime.progress import Progress
from dgflow.store.open import open_store

__all__ = ["made"]

TESTS = Path(__file__).resolve().parent
WITHOUT = "import sys; sys.modules.update(dict.fromkeys({names!r}));"
"""The start of a program in which packages cannot be imported, as if they were not installed."""


@pytest.fixture
def no_ray(monkeypatch):
    """Lets no import of Ray succeed in this process; the workers do not need it."""
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def python(program: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=NO_CLOUD, capture_output=True, text=True, timeout=300)


def test_without_extras_recipes_are_planned_and_roots_looked_at_from_all_sides(tmp_path):
    with tarfile.open(TESTS / "frozen/root.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    program = (
        WITHOUT.format(names=list(EXTRAS))
        + """
sys.path.append(sys.argv[1])
import dgflow
assert all(getattr(dgflow, name) is not None for name in dgflow.__all__)
import digits
from dgflow.cli.tool import app
from dgflow.engine.plan import plan
from dgflow.report.page import render
from dgflow.store.open import open_store
target, store = digits.workflow(), open_store("other")
assert len(plan(target, store)) > 10 and len(render(target, store)) > 1_000
root = dgflow.open("root")
print(root.samples(root.steps("generate")[0].name)[0:2].images.shape)
for command in ("ls", "status"):
    app(args=[command, "root", "--json"], standalone_mode=False)
"""
    )
    found = python(program, TESTS.parent / "workflows", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    shape, *_ = found.stdout.splitlines()
    listed = [json.loads(line) for line in found.stdout.splitlines() if line.startswith(("{", "["))]
    assert shape.startswith("(2, ") and len(listed) == 2 and all(listed)


@pytest.mark.parametrize(
    ("missing", "arguments", "message"),
    [
        ("torch", ["metrics", "x.npz", "x.npz", *ADM], "computing needs the package torch: pip install"),
        ("s3fs", ["ls", "s3://bucket/root"], "expected the package s3fs, which is not installed"),
    ],
)
def test_a_command_whose_package_is_missing_ends_with_the_extra_that_has_it(
    tmp_path, missing, arguments, message
):
    write_statistics(tmp_path / "x.npz", 0, 1)
    program = WITHOUT.format(names=[missing]) + "from dgflow.cli.tool import main; main()"
    found = python(program, *arguments, cwd=tmp_path)
    assert found.returncode == 1 and "Traceback" not in found.stderr
    (line,) = [line for line in found.stderr.splitlines() if line.startswith("error: ")]
    assert message in line and f"'dgflow[{EXTRAS[missing][0]}]'" in line


def test_a_training_is_refused_before_anything_is_made(no_ray, tmp_path):
    source = tiny.write_images(tmp_path / "images.npz")
    root = tmp_path / "root"
    with pytest.raises(ValueError, match=r"training needs the package ray: pip install 'dgflow\[run\]'"):
        execute(tiny.workflow(str(source)), open_store(str(root)), Placement(1), Progress())
    assert not list(root.glob("import-images-*"))


def test_a_cluster_is_refused_where_ray_is_missing(no_ray, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    source = tiny.write_images(tmp_path / "images.npz")
    target = tiny.real(source)[:64]
    with pytest.raises(ValueError, match=r"the cluster at RAY_ADDRESS=10.0.0.1:6379 needs the package ray"):
        execute(target, open_store(str(tmp_path / "root")), Placement(1), Progress())


def test_gpus_that_this_machine_has_not_are_refused_where_ray_is_missing(no_ray, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    target = tiny.real(tiny.write_images(tmp_path / "images.npz"))[:64]
    with pytest.raises(ValueError, match="expected GPUs for --num-gpus 1, found none on this machine"):
        execute(target, open_store(str(tmp_path / "root")), Placement(1, num_gpus=1.0), Progress())


def rows(target, store) -> list[dict]:
    """The committed shards of a step, as their receipts name them."""
    folder = f"{target.step.name}/shards"
    return [json.loads(store.get(entry.key))["rows_sha256"] for entry in store.list(folder)]


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_make_the_same_shards_though_one_is_killed_in_the_middle(
    no_ray, tmp_path, monkeypatch, workers
):
    source = tiny.write_images(tmp_path / "images.npz")
    target = Fragile(source=str(source), num_classes=2, image_size=8, channels=1, shard_size=16)[:96]
    trap = tmp_path / "trap"
    monkeypatch.setenv("TRAP", str(trap))
    store = open_store(str(tmp_path / "root"))
    execute(target, store, Placement(workers), Progress())
    assert trap.exists()
    here = open_store(str(tmp_path / "here"))
    complete(target, here)
    assert rows(target, store) == rows(target, here) and len(rows(target, here)) == 6


@pytest.mark.parametrize("package", ["torch", "ray", "s3fs", "pandas"])
def test_an_import_that_fails_is_told_with_its_extra_and_another_one_keeps_its_traceback(
    monkeypatch, capsys, package
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"drawing needs the package {package}: pip install 'dgflow\["):
        require(package, "drawing")
    assert guarded(lambda: __import__(f"{package}.inner")) == 1
    assert f"'dgflow[{EXTRAS[package][0]}]'" in capsys.readouterr().err
    assert explained(ModuleNotFoundError(name="a_module_of_a_recipe")) is None
    assert explained(ModuleNotFoundError(name="numpy.gone")) is None
    with pytest.raises(ModuleNotFoundError):
        guarded(lambda: __import__("a_module_of_a_recipe"))


@pytest.mark.slow
def test_metrics_are_the_same_to_the_last_bit_on_processes_and_through_ray(made, tmp_path, own_ray):
    write_images(tmp_path / "a.npz", 14, seed=1)
    write_images(tmp_path / "b.npz", 12, seed=2)
    command = ["metrics", "a.npz", "b.npz", *ADM, "--weights", str(made / "inception.safetensors"), "--json"]
    command += [part for name in ("fid", "precision", "recall", "kid") for part in ("--metric", name)]
    plain = "from dgflow.cli.tool import main; main()"
    others = [name for name, extras in EXTRAS.items() if "metrics" not in extras]
    alone = WITHOUT.format(names=others) + plain  # as with the extra `metrics` alone
    found = {
        root: python(program, *command, "--root", root, "--workers", workers, cwd=tmp_path)
        for root, program, workers in [("ray", plain, 2), ("one", alone, 1), ("two", alone, 2)]
    }
    assert all(each.returncode == 0 for each in found.values()), found

    # Killed while it computes the first features, as its note says.
    arguments = [sys.executable, "-c", alone, *command, "--root", "killed"]
    with (tmp_path / "stderr").open("w") as stderr:
        driver = subprocess.Popen(
            arguments, cwd=tmp_path, env=NO_CLOUD, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
        deadline = time.monotonic() + 300
        while not (notes := list((tmp_path / "killed").glob("features-*/attempts/*.json"))):
            assert driver.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(json.loads(notes[0].read_text())["pid"], signal.SIGKILL)
        output, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0
    assert "was ended by SIGKILL" in (tmp_path / "stderr").read_text()
    assert {output, *(each.stdout for each in found.values())} == {found["ray"].stdout}
    names = ("features-*/data/*.parquet", "measure-*/data/*.json")
    stored = [
        [path.read_bytes() for name in names for path in sorted((tmp_path / root).glob(name))]
        for root in (*found, "killed")
    ]
    assert len(stored[0]) == 3 and all(each == stored[0] for each in stored)

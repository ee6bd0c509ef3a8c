"""Looking at a root that is not the one that was meant writes nothing, and tells what else is there."""

import errno
import io
import os
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import tiny

from dgflow.cli import tool
from dgflow.cli.characters import degrade
from dgflow.cli.recipe import main
from dgflow.cli.root import open_root
from dgflow.store.local import LocalStore
from dgflow.store.objects import StoreDenied, store_error
from dgflow.store.open import open_store

LOOKING = ("status", "verify", "report", "gc")


class Called(NamedTuple):
    status: int
    stdout: str
    stderr: str


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """A command of the toy recipe in this process, in a folder of its own."""
    monkeypatch.delenv("DGFLOW_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> Called:
        monkeypatch.setattr(sys, "argv", ["tiny.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            main(tiny.workflow)
        captured = capsys.readouterr()
        return Called(int(ended.value.code or 0), captured.out, captured.err)

    return command


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def make_root(folder: Path, *steps: str) -> None:
    store = open_store(str(folder))
    store.put("dgflow.json", b'{"dgflow_root": 1}')
    for step in steps:
        store.put(f"{step}/step.json", b"{}")


@pytest.mark.parametrize("smoke", [(), ("--smoke",)])
@pytest.mark.parametrize("command", LOOKING)
def test_looking_at_nothing_says_so_and_writes_nothing(call, tmp_path, command, smoke):
    found = call(command, "--root", "runs/digits", *smoke)
    assert found.status == 1 and found.stdout == "" and files(tmp_path) == []
    expected = (
        f"expected a dgflow root at {(tmp_path / 'runs/digits').as_uri()}, found no dgflow.json there; "
    )
    assert f"error: nothing at this root: {expected}" in found.stderr
    assert "no other root lies below it or beside it" in found.stderr


def test_a_plan_of_nothing_is_a_plan_of_everything_and_writes_nothing(call, tmp_path):
    found = call("plan", "--root", "runs/digits")
    assert found.status == 0 and "evaluate" in found.stdout and files(tmp_path) == []
    assert "nothing at this root yet: file://" in found.stderr


def test_the_roots_beside_below_and_above_a_mistyped_one_are_told(call, tmp_path):
    make_root(tmp_path / "runs" / "digits", "generate-0123456789ab")
    make_root(tmp_path / "runs" / "faces")
    before = files(tmp_path)
    beside = call("status", "--root", "runs/digit").stderr
    assert f"beside it are {tmp_path}/runs/digits, {tmp_path}/runs/faces" in beside
    below = call("status", "--root", "runs").stderr
    assert "nothing at this root" in below and "other things (digits, faces) there" in below
    assert "below it are " in below and all(
        f"{tmp_path}/runs/{name}" in below for name in ("digits", "faces")
    )
    above = call("status", "--root", "runs/digits/generate-0123456789ab").stderr
    assert f"it lies in the root {tmp_path}/runs/digits" in above
    assert files(tmp_path) == before


@pytest.mark.parametrize("command", ["plan", "status", "verify", "report"])
def test_a_root_of_other_recipes_is_told(call, tmp_path, command):
    make_root(tmp_path / "root", "generate-0123456789ab")
    found = call(command, "--root", "root")
    assert "this root has no step of this recipe with these options" in found.stderr
    assert "has other steps, generate-0123456789ab" in found.stderr


@pytest.mark.parametrize("command", ["run", "plan", *LOOKING])
@pytest.mark.parametrize(
    ("root", "meant"),
    [
        ("s3:/bucket/x", "s3://bucket/x"),
        ("file:/x", "file:///x"),
        ("", "empty"),
        ("/", "whole"),
        ("runs/a/generate-1[0:5]", "STEP"),
    ],
)
def test_every_command_refuses_a_mistyped_root(call, tmp_path, command, root, meant):
    found = call(command, "--root", root)
    assert found.status == 1 and found.stderr.startswith("error: --root: ") and meant in found.stderr
    assert files(tmp_path) == []


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_mistyped_source_is_refused_before_any_work(call, tmp_path, command):
    found = call(command, "--source", "s3:/bucket/images", "--root", "root")
    assert found.status == 1 and "did you mean s3://bucket/images?" in found.stderr
    assert files(tmp_path) == []


def test_a_mistyped_variable_is_named(call, tmp_path, monkeypatch):
    monkeypatch.setenv("DGFLOW_ROOT", "s3://")
    found = call("plan", "--smoke")
    assert found.status == 1 and found.stderr.startswith("error: DGFLOW_ROOT: expected s3://bucket/prefix")
    monkeypatch.setattr(sys, "argv", ["dgflow", "metrics", "a.npz", "b.npz", "--protocol", "adm"])
    with pytest.raises(SystemExit) as ended:
        tool.main()
    assert ended.value.code == 1 and files(tmp_path) == []


def test_a_root_that_can_only_be_read_is_reported_into_a_file(call, tmp_path, monkeypatch):
    make_root(tmp_path / "root", "generate-0123456789ab")

    def refuse(self, key, data):
        raise store_error(f"write {key}", self.url, "the file system is read-only", "use another")

    monkeypatch.setattr(LocalStore, "put", refuse)
    monkeypatch.setattr(LocalStore, "create", refuse)
    before = files(tmp_path / "root")
    found = call("report", "--root", "root", "--output", "pages/page.html")
    assert found.status == 1 and "report: pages/page.html" in found.stdout  # 1: there is no result yet
    assert "the page was written only to pages/page.html" in found.stderr
    assert (
        (tmp_path / "pages" / "page.html").read_text(encoding="utf-8").lower().startswith("<!doctype html>")
    )
    lost = call("report", "--root", "root", "--json")
    assert "report --output FILE" in lost.stderr and lost.stdout.splitlines()[-1].startswith("{")
    assert call("verify", "--root", "root").stdout and files(tmp_path / "root") == before


def test_a_root_that_can_only_be_read_is_opened_by_a_run_that_may_find_it_complete(tmp_path, monkeypatch):
    make_root(tmp_path / "root")

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "read-only")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        assert open_root(str(tmp_path / "root")).size("dgflow.json")
        with pytest.raises(StoreDenied, match="the file system is read-only"):
            open_root(str(tmp_path / "other"))


def test_characters_that_a_terminal_lacks_are_written_by_others(monkeypatch):
    text = "29.49 ± 0.41 … é ━│┌ ▇ → ń 中 \udcff"
    shown = {
        "ascii": rb"29.49 +/- 0.41 ... e -|+ # -> n \u4e2d \udcff",
        "latin-1": b"29.49 \xb1 0.41 ... \xe9 -|+ # -> n \\u4e2d \\udcff",
        "utf-8": "29.49 ± 0.41 … é ━│┌ ▇ → ń 中 ".encode() + rb"\udcff",
    }
    for encoding, expected in shown.items():
        written = io.BytesIO()
        stream = io.TextIOWrapper(written, encoding=encoding, errors="strict")
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            degrade()
        print(text, file=stream, flush=True, end="")
        assert written.getvalue() == expected


def test_a_clock_is_read_without_making_the_root(tmp_path):
    store = open_store(str(tmp_path / "root"))
    assert store.now() > 0 and os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [("HOME", "/dev/null/home"), ("TMPDIR", "/tmp/" + "x" * 60), ("RAY_ADDRESS", "127.0.0.1:1")],
)
def test_a_machine_that_ray_cannot_start_on_is_told_before_any_work(
    call, tmp_path, monkeypatch, variable, value
):
    for name in ("RAY_TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    if "ray" in sys.modules:  # another test's
        monkeypatch.setattr(sys.modules["ray"], "is_initialized", lambda: False)
    monkeypatch.setenv(variable, value)
    found = call("--root", "root")
    assert found.status == 1 and found.stdout == "" and "Traceback" not in found.stderr
    assert f"{variable}" in found.stderr.splitlines()[-1] and "set " in found.stderr.replace("unset", "set")
    assert not list(tmp_path.glob("root/*/results")) and not list(tmp_path.glob("root/*/shards"))

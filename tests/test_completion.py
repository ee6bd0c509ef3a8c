"""`dgflow completion`: what bash completes with the script, in its own functions and at a terminal."""

import os
import pty
import select
import subprocess
import time

import pytest
from typer.main import get_command

from dgflow.cli import tool
from dgflow.cli.guard import guarded

TRY = """
. "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 ))
_dgflow
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def script(tmp_path, capsys):
    assert guarded(lambda: tool.app(args=["completion"], standalone_mode=False)) == 0
    path = tmp_path / "completion.sh"
    path.write_text(capsys.readouterr().out)
    return path


def completed(script, *words: str) -> list[str]:
    """Returns the completions that bash offers for the last word."""
    command = ["bash", "-c", TRY, "bash", str(script), "dgflow", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_commands_and_every_option_of_each_are_completed(script):
    commands = get_command(tool.app).commands  # pyright: ignore[reportAttributeAccessIssue]
    assert completed(script, "") == list(commands)
    assert completed(script, "stat") == ["status"]
    for name, command in commands.items():
        options = {each for one in command.params for each in one.opts if each.startswith("-")}
        assert set(completed(script, name, "--")) == options | {"--help"}
        assert set(completed(script, name, "something", "--")) == options | {"--help"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["metrics", "a", "b", "--protocol", ""], ["adm", "edm", "clean"]),
        (["metrics", "a.npz", "fid-c"], ["fid-cifar10-32x32"]),
        (["metrics", "--weights", "inception-2015-12-05-o"], ["inception-2015-12-05-openai"]),
        (["metrics", "--metric", "p"], ["precision"]),
        (["export", "a", "--format", "p"], ["png", "parquet"]),
        (["export", "runs/x"], []),  # left to the completion of files
        (["status", "--preview", "a"], []),
        (["metrics", "--workers", ""], []),  # a value without a list
    ],
)
def test_values_of_options_and_names_of_the_catalogue_are_completed(script, words, expected):
    assert completed(script, *words) == expected


def test_it_is_the_matter_of_milliseconds_as_it_runs_no_python(script, tmp_path):
    (tmp_path / "empty").mkdir()
    command = ["/bin/bash", "-c", TRY, "bash", str(script), "dgflow", "metrics", "--metric", "rec"]
    found = subprocess.run(command, capture_output=True, text=True, env={"PATH": str(tmp_path / "empty")})
    assert (found.stdout, found.stderr) == ("recall\n", "")


def test_at_a_terminal_steps_are_completed_behind_their_root(script, tmp_path):
    step = "generate-0a4dc6361732"
    (tmp_path / "runs/digits" / step).mkdir(parents=True)
    start = tmp_path / "bashrc"
    start.write_text(f". {script}\ncd {tmp_path}\nPS1='> '\n")
    pid, terminal = pty.fork()
    if pid == 0:  # the shell of a person
        os.execve("/bin/bash", ["bash", "--rcfile", str(start), "-i"], {"TERM": "dumb"})
    shown = ""

    def wait_for(text: str) -> None:
        nonlocal shown
        end = time.monotonic() + 30
        while text not in shown:
            assert time.monotonic() < end, shown
            if select.select([terminal], [], [], 1)[0]:
                shown += os.read(terminal, 4096).decode()

    try:
        wait_for("> ")
        os.write(terminal, b"dgflow rm runs/digits/gen\t")
        wait_for(f"dgflow rm runs/digits/{step}/")
    finally:
        os.close(terminal)  # ends the shell
        os.waitpid(pid, 0)

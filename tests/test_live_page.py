"""The page of a run that is at work: written from time to time, once more where the run is stopped, and never
a reason for a run to fail."""

import logging
import threading
from queue import Queue

import pytest
from report.fake_root import recipe, write_source

from dgflow.cli import recipe as command
from dgflow.cli.live_page import page_while_running
from dgflow.store.open import open_store


def test_it_is_written_again_and_again_until_the_run_is_done():
    written: Queue[None] = Queue()
    with page_while_running(lambda: written.put(None), first=0, every=0):
        for _ in range(3):
            written.get(timeout=30)
    assert not [thread for thread in threading.enumerate() if thread.name == "page"]


def test_a_run_of_a_moment_writes_none():
    written: Queue[None] = Queue()
    with page_while_running(lambda: written.put(None)):
        pass
    assert written.empty()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_where_the_run_is_stopped_it_is_written_once_more(stop):
    at_work, pages, first = True, [], threading.Event()

    def write() -> None:
        pages.append(at_work)
        first.set()

    with pytest.raises(stop), page_while_running(write, first=0, every=3600):
        assert first.wait(30)
        at_work = False
        raise stop
    assert pages == [True, False]


def test_a_page_that_cannot_be_written_is_told_once_and_tried_again(caplog):
    tries: Queue[None] = Queue()

    def fail() -> None:
        tries.put(None)
        raise OSError("no space left")

    with caplog.at_level(logging.WARNING), page_while_running(fail, first=0, every=0):
        for _ in range(3):
            tries.get(timeout=30)
    assert [record.getMessage() for record in caplog.records] == [
        "could not write the page of this run: no space left"
    ]


def test_a_run_names_its_page_when_it_is_first_written(tmp_path, capsys):
    target = recipe(source=write_source(tmp_path / "digits.npz"))
    store = open_store(str(tmp_path / "root"))
    said: list[str] = []
    for _ in range(2):
        command._write_early(target, store, command.Asked(command=("x.py",)), said.append)
    assert said == [f"page of the run so far: {tmp_path}/root/report.html"]
    assert b"Not complete" in store.get("report.html")

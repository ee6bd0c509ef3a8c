"""Writes the page of a run while it is at work: a thread of the driver, which takes a fiftieth of its time at
most."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FIRST_SECONDS = 10.0  # until the first page: what is done by then has its own soon
EVERY_SECONDS = 30.0
SHARE = 50  # a page that took a second is written again after this many, where that is later
LAST_SECONDS = 5.0  # that the page of a run that was stopped may take

_log = logging.getLogger(__name__)


@contextmanager
def page_while_running(
    write: Callable[[], None], *, first: float = FIRST_SECONDS, every: float = EVERY_SECONDS
) -> Iterator[None]:
    """The context of a run during which `write` writes its page from time to time.

    Where the run ends in an error, a page that was written is written once more: it no longer says that the
    run is at work. A failure to write it is logged once, and the run goes on.
    """
    page, ended = _Page(write), threading.Event()

    def run() -> None:
        pause = first
        while not ended.wait(pause):
            page.attempt()
            pause = max(every, SHARE * page.seconds)

    thread = threading.Thread(target=run, name="page", daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        ended.set()
        thread.join(LAST_SECONDS)
        if page.written and page.seconds < LAST_SECONDS and not thread.is_alive():
            page.attempt()
        raise
    ended.set()
    thread.join()  # the page of the finished run is the last one that is written


class _Page:
    """`seconds` are those of the last attempt."""

    def __init__(self, write: Callable[[], None]) -> None:
        self._write, self.seconds, self.written, self._warned = write, 0.0, False, False

    def attempt(self) -> None:
        began = time.monotonic()
        try:
            self._write()
            self.written = True
        except Exception as error:
            if not self._warned:
                self._warned = True
                _log.warning("could not write the page of this run: %s", error)
        self.seconds = time.monotonic() - began

"""Update the page of an active run, in a thread of the driver that uses at most a fiftieth of its time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FIRST_SECONDS = 10.0  # delay of the first page; a shorter run has only the final page
EVERY_SECONDS = 30.0
SHARE = 50  # minimum interval between pages, in multiples of the time to write one
LAST_SECONDS = 5.0  # time limit for the page of a stopped run

_log = logging.getLogger(__name__)


@contextmanager
def page_while_running(
    write: Callable[[], None], *, first: float = FIRST_SECONDS, every: float = EVERY_SECONDS
) -> Iterator[None]:
    """A context in which `write` writes the run's page periodically.

    If the run ends in an error, an existing page is written once more, so that it no longer shows an active
    run. A failure to write is logged once, and the run continues.
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
    thread.join()  # the page of the finished run must be written last


class _Page:
    """Writes the page; `seconds` is the duration of the latest attempt."""

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

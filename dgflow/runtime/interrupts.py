"""Ctrl-C that is not lost. Ray's wait asks for signals itself, and one that comes as the result does is seen there and then forgotten."""

from __future__ import annotations

import signal
import threading
from types import FrameType

_seen = threading.Event()


def remember() -> None:
    """From now on an interrupt is remembered as well as raised, and earlier ones, which were dealt with, are forgotten.

    Does nothing more outside the main thread, or where another handler is.
    """
    _seen.clear()
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _handler)


def check() -> None:
    """Raises KeyboardInterrupt where one came that got lost."""
    if _seen.is_set():
        _seen.clear()
        raise KeyboardInterrupt


def _handler(number: int, frame: FrameType | None) -> None:
    del number, frame
    _seen.set()
    raise KeyboardInterrupt

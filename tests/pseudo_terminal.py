"""A terminal for tests, of 80 columns."""

import fcntl
import os
import pty
import struct
import termios
from collections.abc import Callable
from contextlib import suppress


def shown(write: Callable[[int], object]) -> str:
    """Returns what a terminal shows after `write(descriptor)`, which writes at most 4 kB to it, or starts a
    process that writes to it. Returns when the process ends."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    try:
        write(theirs)
    finally:
        os.close(theirs)
    text = b""
    with os.fdopen(ours, "rb", buffering=0) as reader, suppress(OSError):  # at the end of a terminal
        while data := reader.read(4096):
            text += data
    return text.decode()

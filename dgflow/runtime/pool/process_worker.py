"""The worker's side of `process_fleet`: processes items in order, until the driver closes the connection.

Messages from the driver are (call, job, file of the job's function, item), or (call,) to cancel a call that
has not started. Messages to the driver are (call, "value" | "error" | "cancelled", content).
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections import deque
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cloudpickle

from dgflow.runtime.devices import NoDevice, broken, check_gpu
from dgflow.runtime.pool.fleet import Place, Work


def main(descriptor: int) -> None:
    """Works for the driver at the other end of the socket `descriptor`."""
    threading.Thread(target=_end_with_driver, args=(descriptor,), daemon=True).start()
    connection = Connection(descriptor)
    connection.send(_ready())
    waiting: deque[tuple[int, int, str, Any]] = deque()
    cancelled: set[int] = set()
    present: tuple[int, Work] | None = None
    while True:
        while not waiting or connection.poll():
            match connection.recv():
                case (call,):
                    cancelled.add(call)
                case message:
                    waiting.append(message)
        call, job, path, item = waiting.popleft()
        if call in cancelled:
            cancelled.remove(call)
            connection.send((call, "cancelled", None))
            continue
        try:
            if present is None or present[0] != job:
                present = None  # frees the last job's networks before the next one's are loaded
                present = job, cloudpickle.loads(Path(path).read_bytes())()
            reply = cloudpickle.dumps((call, "value", present[1](item)))
        except Exception as error:
            reply = cloudpickle.dumps((call, "error", _portable(broken(error) or error)))
        connection.send_bytes(reply)


def _ready() -> tuple[int, str, Any]:
    """Returns the first message to the driver: the place of this worker, or NoDevice."""
    host, gpus = socket.gethostname(), os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if gpus:
        try:
            check_gpu(host)
        except NoDevice as error:
            return 0, "error", error
    return 0, "value", Place(host, gpus or str(os.getpid()))


def _portable(error: Exception) -> Exception:
    """Returns `error`; or a RuntimeError with its text if the driver could not unpickle it."""
    try:
        cloudpickle.loads(cloudpickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def _end_with_driver(descriptor: int) -> None:
    """Ends this process once the other end of the socket is closed, even while it computes."""
    poll = select.poll()
    poll.register(descriptor, 0)  # reports only a hang-up
    poll.poll()
    os._exit(1)

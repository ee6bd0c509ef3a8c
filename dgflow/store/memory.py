"""Objects in this process's memory, under `memory://name`, for tests and experiments.

Other processes cannot see the objects: unpickling a store there raises an error instead of giving an empty
store.
"""

import os
import threading
import time
from collections.abc import Sequence

from dgflow.store.objects import Entry, check_key, check_new, store_error, under

_lock = threading.Lock()
_stores: dict[str, dict[str, tuple[bytes, float]]] = {}  # name -> key -> (bytes, seconds since the epoch)


class MemoryStore:
    """The objects of `memory://name`, shared by all instances of that name."""

    shared = False

    def __init__(self, name: str) -> None:
        self.url = f"memory://{check_key(name)}"
        self._name = name
        with _lock:
            self._objects = _stores.setdefault(name, {})

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return _reopen, (self._name, os.getpid())

    def get(self, key: str) -> bytes:
        with _lock:
            if check_key(key) not in self._objects:
                raise FileNotFoundError(f"no object {key!r} in {self.url}")
            return self._objects[key][0]

    def get_many(self, keys: Sequence[str]) -> list[bytes]:
        return [self.get(key) for key in keys]

    def put(self, key: str, data: bytes) -> None:
        check_key(key)
        with _lock:
            self._objects[key] = (bytes(data), time.time())

    def create(self, key: str, data: bytes) -> bool:
        check_new(key, data)
        with _lock:
            return self._objects.setdefault(key, entry := (bytes(data), time.time())) is entry

    def size(self, key: str) -> int | None:
        with _lock:
            return len(self._objects[key][0]) if check_key(key) in self._objects else None

    def list(self, prefix: str) -> list[Entry]:
        folder = under(prefix)
        with _lock:
            objects = sorted(item for item in self._objects.items() if item[0].startswith(folder))
        return [Entry(key, len(data), modified) for key, (data, modified) in objects]

    def names(self) -> "list[str]":  # quoted: `list` is a method here
        with _lock:
            return sorted({key.partition("/")[0] for key in self._objects})

    def delete(self, key: str) -> None:
        with _lock:
            self._objects.pop(check_key(key), None)

    def now(self) -> float:
        return time.time()


def _reopen(name: str, pid: int) -> MemoryStore:
    if pid != os.getpid():
        remedy = "use a path or s3://bucket/prefix as the root"
        raise store_error("open it", f"memory://{name}", "it exists only in another process", remedy)
    return MemoryStore(name)

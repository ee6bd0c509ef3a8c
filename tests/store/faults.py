"""A store that fails on purpose: a writer that dies, or a reply that is an error, before or after any of its
operations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from dgflow.store.objects import Entry, ObjectStore, StoreError

When = Literal["before", "after"]


class Crash(BaseException):
    """The writer dies here: no `except Exception` runs."""


@dataclass
class FaultyStore:
    """Passes everything on to `inner`, and fails once, before or after the operation number `at` (from 0)."""

    inner: ObjectStore
    at: int = -1
    when: When = "before"
    error: type[BaseException] = Crash
    operations: int = 0

    @property
    def url(self) -> str:
        return self.inner.url

    @property
    def shared(self) -> bool:
        return self.inner.shared

    def _do(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        number, self.operations = self.operations, self.operations + 1
        if number == self.at and self.when == "before":
            raise self.error("injected")
        result = operation(*arguments)
        if number == self.at:
            raise self.error("injected")
        return result

    def get(self, key: str) -> bytes:
        return self._do(self.inner.get, key)

    def get_many(self, keys: Any) -> list[bytes]:
        return self._do(self.inner.get_many, keys)

    def put(self, key: str, data: bytes) -> None:
        self._do(self.inner.put, key, data)

    def create(self, key: str, data: bytes) -> bool:
        return self._do(self.inner.create, key, data)

    def size(self, key: str) -> int | None:
        return self._do(self.inner.size, key)

    def list(self, prefix: str) -> list[Entry]:
        return self._do(self.inner.list, prefix)

    def names(self) -> "list[str]":
        return self._do(self.inner.names)

    def delete(self, key: str) -> None:
        self._do(self.inner.delete, key)

    def now(self) -> float:
        return self.inner.now()


FAULTS: tuple[tuple[When, type[BaseException]], ...] = (
    ("before", Crash),
    ("after", Crash),
    ("before", StoreError),
    ("after", StoreError),
)

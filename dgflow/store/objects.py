"""The interface to a store of objects (bytes under a key), and the one error that stores raise.

A key is relative to the store's root: names of letters, digits, `.`, `_`, `-`, `=` or `+`, joined by `/`.
Every backend promises: a reader sees an object whole or not at all; `create` has exactly one winner per key
and never alters what is there; `list` and `size` see every write that had returned.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

# Bytes; of racing multipart uploads two have been seen to win, of single-part ones never more than one.
LARGEST_CREATE = 64 * 2**20

_NOT_EXCLUSIVE = (
    "the store replaced an object where it was asked to create one (on S3 a PUT with `If-None-Match: *`, on "
    "a disk a hard link to a name that exists), so that results could be committed twice",
    "use a store that refuses this, such as a disk of this host, Amazon S3, or a present version of MinIO, "
    "Ceph, R2 or SeaweedFS, and no proxy that drops the header",
)
_KEY = re.compile(r"[A-Za-z0-9._=+-]+(/[A-Za-z0-9._=+-]+)*")


class StoreError(RuntimeError):
    """A store failed: the message says what was attempted, where, what was found and what to do."""


class StoreRefusal(StoreError):
    """A store failed in a way that no repetition mends, such as denied access or a full disk."""


class StoreDenied(StoreRefusal):
    """This user may not do it there, or nobody may: a store that can only be read."""


def store_error(
    attempted: str, url: str, found: str, remedy: str, kind: type[StoreError] = StoreError
) -> StoreError:
    """The message's one form: `could not write KEY in URL: FOUND; REMEDY`."""
    return kind(f"could not {attempted} in {url}: {found}; {remedy}")


def check_exclusive(store: "ObjectStore", key: str) -> None:
    """Raises StoreRefusal for a store whose `create` replaces what is there: tried on an object, by its own
    bytes.

    Everything that is committed once rests on that. One request to read, and one that has to fail.
    """
    if store.create(key, store.get(key)):
        raise store_error(f"rely on what is written to {key}", store.url, *_NOT_EXCLUSIVE, kind=StoreRefusal)


@dataclass(frozen=True)
class Entry:
    """One object of a listing."""

    key: str
    bytes: int
    modified: float  # seconds since the epoch by the store's own clock, which may differ from this host's


class ObjectStore(Protocol):
    """A store. Instances can be pickled and used after a fork and from several threads."""

    @property
    def url(self) -> str:
        """The url for messages and for `open_store`; never carries a secret."""
        ...

    @property
    def shared(self) -> bool:
        """Tells if other hosts see the same objects under this url."""
        ...

    def get(self, key: str) -> bytes:
        """The object's bytes. Raises FileNotFoundError where there is none."""
        ...

    def get_many(self, keys: Sequence[str]) -> list[bytes]:
        """As `get`, in the order of `keys`, concurrently where that helps."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write or replace content-addressed data, or an advisory record: nothing guards the old bytes."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Write an object where there is none: True if this call made it, False if it was there, untouched.

        `data` has 1 to LARGEST_CREATE bytes: on S3 an empty exclusive write does not report that it lost.
        """
        ...

    def size(self, key: str) -> int | None:
        """The object's length in bytes, None where there is none."""
        ...

    def list(self, prefix: str) -> list[Entry]:
        """All objects below a folder such as `generate-abc/shards`, at any depth, by key; `""` is the
        root."""
        ...

    def names(self) -> "list[str]":  # quoted: `list` is a method here
        """The names directly in the root, of folders and objects, sorted: one request, however much is
        below."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; removing what is not there is fine."""
        ...

    def now(self) -> float:
        """The time by the store's own clock, to compare with `Entry.modified`, good to a second."""
        ...


def check_key(key: str) -> str:
    """Return `key`, or raise ValueError: one grammar for all backends, so that no key can leave the root."""
    if not _KEY.fullmatch(key) or any(part.startswith(".") for part in key.split("/")):
        raise ValueError(
            "expected a key such as 'generate-0123/shards/00001.json' (letters, digits and ._=+- in names "
            f"that do not begin with a dot, joined by single slashes), found {key!r}"
        )
    return key


def check_new(key: str, data: bytes) -> None:
    """Raises ValueError for what `create` does not accept."""
    check_key(key)
    if not data:
        raise ValueError(
            f"expected at least one byte to create {key!r}, found none: an empty exclusive write cannot "
            "report a loss"
        )


def under(prefix: str) -> str:
    """The beginning of the keys below the folder `prefix`: `a/b` -> `a/b/`, and nothing for the root."""
    return f"{check_key(prefix)}/" if prefix else ""

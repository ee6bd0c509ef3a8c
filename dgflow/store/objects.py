"""The interface of an object store (bytes under a key), and the errors that stores raise.

A key is relative to the store's root: names of letters, digits, `.`, `_`, `-`, `=` or `+`, joined by `/`.
Every backend guarantees: a reader sees an object whole or not at all; `create` has exactly one winner per key
and never alters an existing object; `list` and `size` see every write that has returned.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

# Bytes. Of racing single-part uploads exactly one succeeds; two racing multipart uploads have both succeeded.
LARGEST_CREATE = 64 * 2**20

_NOT_EXCLUSIVE = (
    "the store replaced an existing object by an exclusive create (on S3 a PUT with `If-None-Match: *`, on "
    "a disk a hard link), so results could be committed twice",
    "use a store that refuses this, such as a disk of this host, Amazon S3, or a current version of MinIO, "
    "Ceph, R2 or SeaweedFS, and no proxy that drops the header",
)
_KEY = re.compile(r"[A-Za-z0-9._=+-]+(/[A-Za-z0-9._=+-]+)*")


class StoreError(RuntimeError):
    """A store failed. The message states what was attempted, where, what was found, and the remedy."""


class StoreRefusal(StoreError):
    """A store failed in a way that no retry resolves, such as denied access or a full disk."""


class StoreDenied(StoreRefusal):
    """The operation is not permitted, to this user or, in a read-only store, to anybody."""


def store_error(
    attempted: str, url: str, found: str, remedy: str, kind: type[StoreError] = StoreError
) -> StoreError:
    """A store error in the standard form: `could not write KEY in URL: FOUND; REMEDY`."""
    return kind(f"could not {attempted} in {url}: {found}; {remedy}")


def check_exclusive(store: "ObjectStore", key: str) -> None:
    """Raise StoreRefusal if the store's `create` replaces an existing object.

    Commits rely on an exclusive create. The check creates `key` again with its own bytes, which must fail; it
    takes two requests.
    """
    if store.create(key, store.get(key)):
        raise store_error(f"create {key} exclusively", store.url, *_NOT_EXCLUSIVE, kind=StoreRefusal)


@dataclass(frozen=True)
class Entry:
    """One object of a listing."""

    key: str
    bytes: int
    modified: float  # seconds since the epoch by the store's clock, which may differ from this host's


class ObjectStore(Protocol):
    """An object store. Instances can be pickled, and used after a fork and from several threads."""

    @property
    def url(self) -> str:
        """The url, for messages and for `open_store`; never contains a secret."""
        ...

    @property
    def shared(self) -> bool:
        """True if other hosts see the same objects under this url."""
        ...

    def get(self, key: str) -> bytes:
        """The object's bytes. Raises FileNotFoundError if there is no such object."""
        ...

    def get_many(self, keys: Sequence[str]) -> list[bytes]:
        """Get several objects, in the order of `keys`; S3 reads them concurrently. Raises the errors of
        `get`.
        """
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write or replace an object. Only for content-addressed data and advisory records, because the old
        bytes are lost.
        """
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Create an object; returns True if this call created it, False if it existed, in which case it is
        left unchanged.

        `data` has 1 to LARGEST_CREATE bytes: on S3 an empty conditional write does not report that another
        writer won.
        """
        ...

    def size(self, key: str) -> int | None:
        """The object's length in bytes; None if there is no such object."""
        ...

    def list(self, prefix: str) -> list[Entry]:
        """List all objects below a folder such as `generate-abc/shards`, at any depth, sorted by key; `""` is
        the root.
        """
        ...

    def names(self) -> "list[str]":  # quoted: `list` is a method here
        """List the names of folders and objects directly in the root, sorted. On S3 this takes one request
        per 1,000 names, regardless of the number of objects.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove an object; no error if it does not exist."""
        ...

    def now(self) -> float:
        """The time by the store's clock, accurate to a second, to compare with `Entry.modified`."""
        ...


def check_key(key: str) -> str:
    """Return `key`, or raise ValueError: all backends share one grammar, so no key can leave the root."""
    if not _KEY.fullmatch(key) or any(part.startswith(".") for part in key.split("/")):
        raise ValueError(
            "expected a key such as 'generate-0123/shards/00001.json' (letters, digits and ._=+- in names "
            f"that do not begin with a dot, joined by single slashes), found {key!r}"
        )
    return key


def check_new(key: str, data: bytes) -> None:
    """Raise ValueError for a key or data that `create` does not accept."""
    check_key(key)
    if not data:
        raise ValueError(
            f"expected at least one byte to create {key!r}, found none: an empty exclusive write does not "
            "report that another writer won"
        )


def under(prefix: str) -> str:
    """The prefix of the keys below the folder `prefix`: `a/b` -> `a/b/`; empty for the root."""
    return f"{check_key(prefix)}/" if prefix else ""

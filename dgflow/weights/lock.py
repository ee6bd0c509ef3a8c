"""The lock of a weight file: a record in the root of its first use, which every later use is checked
against."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

from dgflow.store.objects import ObjectStore, check_key
from dgflow.store.receipts import CorruptObject, Sha256, parse_json


class Lock(BaseModel):
    """Written once, never altered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    source: str
    sha256: Sha256
    bytes: int
    key: str  # of the file, from the store's root
    created: float  # seconds since the epoch by the writer's clock


def read_lock(store: ObjectStore, key: str, name: str, folder: str) -> Lock | None:
    """The lock at `key`, None where there is none.

    Raises:
        CorruptObject: it is something else, or not the lock of `name` for a file below `folder`.
    """
    try:
        lock = Lock.model_validate(parse_json(store.get(key), key, store.url))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise CorruptObject(
            f"{key} in {store.url}: expected the lock of a weight file, found another record: {error}"
        ) from error
    if lock.name != name or not _is_below(lock.key, folder):
        raise CorruptObject(
            f"{key} in {store.url}: expected the lock of {name} and a file below {folder}/, found one of "
            f"{lock.name!r} and {lock.key!r}: delete it and run again"
        )
    return lock


def _is_below(key: str, folder: str) -> bool:
    try:
        return check_key(key).startswith(
            f"{folder}/"
        )  # no part of a good key begins with a dot: none leads up
    except ValueError:
        return False

"""Locks: records in the root of a weight file's content at first use."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

from dgflow.store.objects import ObjectStore, check_key
from dgflow.store.receipts import CorruptObject, Sha256, parse_json


class Lock(BaseModel):
    """The lock of one file, written once and never altered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    source: str
    sha256: Sha256
    bytes: int
    key: str  # key of the file in the root
    created: float  # seconds since the epoch, by the writer's clock
    etag: str | None = None  # ETag of the source when it was fetched, if any


def lock_key(name: str) -> str:
    """The key of the lock of `name`."""
    return f"weights/{name}.json"


def read_lock(store: ObjectStore, name: str) -> Lock | None:
    """The lock of `name`, None if there is none.

    Raises CorruptObject if the record is not a lock, or is the lock of another name or of a file not below
    `weights/NAME`.
    """
    key = lock_key(name)
    try:
        lock = Lock.model_validate(parse_json(store.get(key), key, store.url))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise CorruptObject(
            f"{key} in {store.url}: expected the lock of a weight file, found another record: {error}"
        ) from error
    if lock.name != name or not _is_below(lock.key, f"weights/{name}/"):
        raise CorruptObject(
            f"{key} in {store.url}: expected the lock of {name} and a file below weights/{name}/, found a "
            f"lock of {lock.name!r} and the file {lock.key!r}: delete the lock and run again"
        )
    return lock


def _is_below(key: str, folder: str) -> bool:
    try:
        return check_key(key).startswith(folder)  # parts of a checked key never begin with a dot, as .. does
    except ValueError:
        return False

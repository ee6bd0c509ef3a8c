"""Opens the root that a command works on."""

import json

from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store
from dgflow.testing.smoke_root import check_root

ROOT_FORMAT = 1
_MARK = json.dumps({"dgflow_root": ROOT_FORMAT}).encode()


def open_root(url: str, smoke: bool = False) -> ObjectStore:
    """The store at `url`, which becomes a root if it is empty; `smoke` for a smoke run's.

    Raises:
        ValueError: the place holds something else than a dgflow root, one of another format or of the other
            kind.
        StoreError: it cannot be reached, or may not be written.
    """
    store = open_store(url)
    if store.size("dgflow.json") is None:
        if others := store.names():
            raise ValueError(
                f"expected a dgflow root at {store.url}, found other things there ({', '.join(others[:3])}) "
                "and no dgflow.json; give an empty or a new folder, as in --root runs/mine"
            )
        store.create("dgflow.json", _MARK)
    _check_format(store)
    check_root(store, smoke)
    return store


def existing_root(url: str) -> ObjectStore:
    """The root at `url`, of any kind. Raises ValueError where there is none; else as `open_root`."""
    store = open_store(url)
    if store.size("dgflow.json") is None:
        raise ValueError(
            f"expected a dgflow root at {store.url}, found no dgflow.json there; give the root of a run, "
            "such as runs/digits"
        )
    _check_format(store)
    return store


def _check_format(store: ObjectStore) -> None:
    if (mark := store.get("dgflow.json")) != _MARK:
        raise ValueError(
            f"expected a root of format {ROOT_FORMAT} at {store.url}, found {mark[:80]!r}; "
            "use another root, or the version of dgflow that wrote it"
        )

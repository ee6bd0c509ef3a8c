"""Opening the place where a run is kept."""

import json

from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store
from dgflow.testing.smoke_root import check_root

ROOT_FORMAT = 1


def open_root(url: str, smoke: bool = False) -> ObjectStore:
    """The store at `url`, a smoke run's or a real one's.

    Raises:
        ValueError: the place holds something else than a dgflow root, one of another format or of the other
            kind.
        StoreError: it cannot be reached, or may not be written.
    """
    store = open_store(url)
    wanted = json.dumps({"dgflow_root": ROOT_FORMAT}).encode()
    try:
        found = store.get("dgflow.json")
    except FileNotFoundError:
        others = store.names()
        if others:
            raise ValueError(
                f"expected a dgflow root at {store.url}, found other things there ({', '.join(others[:3])}) "
                "and no dgflow.json; give an empty or a new folder, as in --root runs/mine"
            ) from None
        store.create("dgflow.json", wanted)
        found = wanted
    if found != wanted:
        raise ValueError(
            f"expected a root of format {ROOT_FORMAT} at {store.url}, found {found[:80]!r}; "
            "use another root, or the version of dgflow that wrote it"
        )
    check_root(store, smoke)
    return store

"""Opens the root that a command works on."""

import contextlib
import os
import re

from dgflow.cli.nearby import roots_nearby
from dgflow.store.address import ROOT_MARK, check_format
from dgflow.store.objects import ObjectStore, StoreDenied, check_exclusive
from dgflow.store.open import open_store
from dgflow.store.urls import split_url
from dgflow.testing.smoke_root import check_root


def root_url(given: str | None, default: str, smoke: bool = False) -> str:
    """The root that a command line names: `given`, else $DGFLOW_ROOT, else `default`; `-smoke` is added to
    the latter two for a smoke run.

    Raises ValueError, naming the option or the variable, for one that was mistyped.
    """
    variable = os.environ.get("DGFLOW_ROOT") if given is None else None
    url = given if given is not None else variable or default
    try:
        if re.search(r"\[\d*:\d+\]/*$", url):
            raise ValueError(
                f"expected the root of a run, found the address of samples, {url}; leave out STEP[...]"
            )
        split_url(url)
    except ValueError as error:
        raise ValueError(f"{'DGFLOW_ROOT' if variable else '--root'}: {error}") from error
    return url if given is not None or not smoke else url.rstrip("/") + "-smoke"


def open_root(url: str, smoke: bool = False) -> ObjectStore:
    """The store at `url`, which becomes a root if it is empty; `smoke` for a smoke run's.

    Raises:
        ValueError: the place holds something else than a dgflow root, one of another format or of the other
            kind.
        StoreError: it cannot be reached, may not be written, or lets two writers create one object.
    """
    store = open_store(url)
    if store.size("dgflow.json") is None:
        if store.names():
            raise ValueError(f"{_expected(store)}; give an empty or a new folder, as in --root runs/mine")
        store.create("dgflow.json", ROOT_MARK)
    check_format(store)
    with contextlib.suppress(StoreDenied):  # a complete root is read where nothing can be written
        check_exclusive(store, "dgflow.json")
    check_root(store, smoke, write=True)
    return store


def future_root(url: str, smoke: bool = False) -> ObjectStore | None:
    """The root at `url`, None where there is nothing yet and a root may come to be. Writes nothing; raises as
    `open_root`."""
    store = open_store(url)
    if store.size("dgflow.json") is None:
        if store.names():
            raise ValueError(nothing_at(store))
        return None
    check_format(store)
    check_root(store, smoke, write=False)
    return store


def existing_root(url: str) -> ObjectStore:
    """The root at `url`, of any kind. Writes nothing. Raises ValueError where there is none; else as
    `open_root`."""
    store = open_store(url)
    if store.size("dgflow.json") is None:
        raise ValueError(nothing_at(store))
    check_format(store)
    return store


def nothing_at(store: ObjectStore) -> str:
    """The message for a place where a root was expected and is not."""
    return f"nothing at this root: {_expected(store)}. Give the root of a run, such as runs/digits"


def _expected(store: ObjectStore) -> str:
    others = store.names()
    found = f" and other things ({', '.join(others[:3])})" if others else ""
    return f"expected a dgflow root at {store.url}, found no dgflow.json{found} there; {roots_nearby(store)}"

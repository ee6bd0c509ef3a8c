"""Open the root of a command."""

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
    """The url of the root: `given`, or if that is None, $DGFLOW_ROOT, or if that is unset, `default`. The
    last two get the suffix `-smoke` for a smoke run.

    Raises ValueError, which names the option or the variable, for a mistyped url.
    """
    variable = os.environ.get("DGFLOW_ROOT") if given is None else None
    url = given if given is not None else variable or default
    try:
        if re.search(r"\[\d*:\d+\]/*$", url):
            raise ValueError(
                f"expected the root of a run, found the address of samples, {url}; omit STEP[...]"
            )
        split_url(url)
    except ValueError as error:
        raise ValueError(f"{'DGFLOW_ROOT' if variable else '--root'}: {error}") from error
    return url if given is not None or not smoke else url.rstrip("/") + "-smoke"


def open_root(url: str, smoke: bool = False) -> ObjectStore:
    """Open the root at `url`, and create it if the location is empty; `smoke` for the root of a smoke run.

    Raises:
        ValueError: the location has other content, or a root of another format or kind.
        StoreError: the store cannot be reached or written, or its `create` replaces existing objects.
    """
    store = open_store(url)
    if store.size("dgflow.json") is None:
        if store.names():
            raise ValueError(f"{_expected(store)}; give an empty or a new folder, as in --root runs/mine")
        store.create("dgflow.json", ROOT_MARK)
    check_format(store)
    with contextlib.suppress(StoreDenied):  # a complete root can be read without write access
        check_exclusive(store, "dgflow.json")
    check_root(store, smoke, write=True)
    return store


def future_root(url: str, smoke: bool = False) -> ObjectStore | None:
    """Open the root at `url`; None if the location is empty, so that a root can be created. Writes nothing.
    Raises the errors of `open_root`.
    """
    store = open_store(url)
    if store.size("dgflow.json") is None:
        if store.names():
            raise ValueError(nothing_at(store))
        return None
    check_format(store)
    check_root(store, smoke, write=False)
    return store


def existing_root(url: str) -> ObjectStore:
    """Open the root at `url`, of a smoke run or not. Writes nothing. Raises ValueError if there is no root,
    and the errors of `open_root`.
    """
    store = open_store(url)
    if store.size("dgflow.json") is None:
        raise ValueError(nothing_at(store))
    check_format(store)
    return store


def nothing_at(store: ObjectStore) -> str:
    """The error message for a location without a root."""
    return f"nothing at this root: {_expected(store)}. Give the root of a run, such as runs/digits"


def _expected(store: ObjectStore) -> str:
    others = store.names()
    found = f" and other things ({', '.join(others[:3])})" if others else ""
    return f"expected a dgflow root at {store.url}, found no dgflow.json{found} there; {roots_nearby(store)}"

"""Find roots near a mistyped location, which are often one letter or one folder away."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator

from dgflow.specs.graph import graph
from dgflow.specs.step import Target
from dgflow.store.address import is_root, step_names
from dgflow.store.objects import ObjectStore, StoreError
from dgflow.store.open import as_typed, open_store

_LOOKS = 50  # maximum number of folders that are searched for `dgflow.json`
_SHOWN = 5
_UP = 4  # levels of parent folders


def roots_nearby(store: ObjectStore) -> str:
    """Describe the roots around a location: the root that contains it, or the roots in it and next to it.
    Writes nothing.
    """
    for above in _above(store.url):
        with contextlib.suppress(ValueError, StoreError):
            if is_root(above):
                return f"it lies in the root {_shown(above)}"
    descriptions = []
    for where, folder in (("below it", store.url), ("beside it", next(_above(store.url), None))):
        if folder and (names := _roots_in(folder, near=store.url.rpartition("/")[2])):
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            descriptions.append(f"{where} {'are' if names[1:] else 'is'} {', '.join(names[:_SHOWN])}{more}")
    return "; ".join(descriptions) or "no other root lies below it or beside it"


def others_only(target: Target, store: ObjectStore) -> str | None:
    """A remark if a root has steps but none of the recipe's; otherwise None."""
    existing = step_names(store)
    if not existing or {node.step.name for node in graph(target)} & set(existing):
        return None
    more = f" and {len(existing) - _SHOWN} more" if len(existing) > _SHOWN else ""
    return (
        f"this root has no step of this recipe with these options: {store.url} has other steps, "
        f"{', '.join(existing[:_SHOWN])}{more}"
    )


def _above(url: str) -> Iterator[str]:
    """Yield the urls of the parent folders, nearest first."""
    beginning = url.index("://") + 3
    for _ in range(_UP):
        url = url.rpartition("/")[0]
        if len(url) <= beginning:
            return
        yield url


def _roots_in(folder: str, near: str) -> list[str]:
    """The roots directly in a folder; names similar to `near` come first."""
    try:
        store = open_store(folder)
        names = store.names()
    except (ValueError, StoreError):
        return []
    names.sort(key=lambda name: -difflib.SequenceMatcher(None, name, near).ratio())
    roots = []
    for name in names[:_LOOKS]:
        with contextlib.suppress(ValueError, StoreError):  # a name that is not a valid key
            if store.size(f"{name}/dgflow.json") is not None:
                roots.append(_shown(f"{store.url}/{name}"))
    return roots


def _shown(url: str) -> str:
    return as_typed(open_store(url))

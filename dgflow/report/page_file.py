"""The files of pages in a root: `report.html` is that of the latest variant of a recipe, and the page of each
other variant lies beside it under the name of its last step."""

from __future__ import annotations

import re

from dgflow.store.objects import ObjectStore

PAGE = "report.html"
_TARGET = re.compile(rb'<meta name="dgflow-target" content="([a-z0-9-]+)">')
_BEFORE = re.compile(rb'<span class="mono">([a-z0-9-]+)</span> in <span')  # earlier pages


def page_of(target: str) -> str:
    """The key of a variant's page beside the latest one; `target` names its last step."""
    return f"report-{target}.html"


def put_page(store: ObjectStore, target: str, text: bytes) -> str | None:
    """Write a variant's page, and keep that of another variant beside it. The other's name, None without."""
    try:
        old = store.get(PAGE)
    except FileNotFoundError:
        old = b""
    match = _TARGET.search(old) or _BEFORE.search(old)
    other = match[1].decode() if match and match[1].decode() != target else None
    if other is not None:
        store.put(page_of(other), old)
    store.put(PAGE, text)
    if page_of(target) in store.names():  # kept when another variant was the latest
        store.put(page_of(target), text)
    return other

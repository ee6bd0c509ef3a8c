"""The page files of a root.

`report.html` is the page of the latest variant of a recipe. A root with several variants also has a page for
each variant, named by the variant's last step, and `index.html`, which compares them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence

from markupsafe import Markup

from dgflow.store.objects import ObjectStore

PAGE, INDEX = "report.html", "index.html"
NO_INDEX = Markup("<!-- no index -->")  # replaced by a link to the index once the root has one
_TARGET = re.compile(rb'<meta name="dgflow-target" content="([a-z0-9-]+)">')
_BEFORE = re.compile(rb'<span class="mono">([a-z0-9-]+)</span> in <span')  # in pages of earlier versions


def page_of(target: str) -> str:
    """Returns the key of a variant's own page; `target` names its last step."""
    return f"report-{target}.html"


def index_link() -> Markup:
    """Returns the link from a page to the index beside it."""
    return Markup(' <a href="{}">All variants</a>').format(INDEX)


def put_page(store: ObjectStore, target: str, text: bytes) -> str | None:
    """Writes a variant's page as `report.html`. If `report.html` was the page of another variant, that page
    is kept under its own name, and the name of the other variant's last step is returned; otherwise None."""
    shown = _shown(store)
    other = shown if shown != target else None
    if other is not None:
        store.put(page_of(other), _linked(store.get(PAGE)))
    names = store.names()
    if other is not None or INDEX in names or page_of(target) in names:
        text = _linked(text)
        store.put(page_of(target), text)
    store.put(PAGE, text)
    return other


def drop_page(store: ObjectStore, target: str, kept: Sequence[str]) -> None:
    """Removes a variant's page. If it is also `report.html`, the page of the latest of the variants `kept`
    that has a page takes its place."""
    store.delete(page_of(target))
    if _shown(store) != target:
        return
    for other in reversed(kept):
        with contextlib.suppress(FileNotFoundError):
            store.put(PAGE, store.get(page_of(other)))
            return
    store.delete(PAGE)


def drop_index(store: ObjectStore) -> None:
    """Removes the index, and the link to it from `report.html`."""
    if store.size(INDEX) is not None:
        store.delete(INDEX)
        with contextlib.suppress(FileNotFoundError):
            store.put(PAGE, store.get(PAGE).replace(index_link().encode(), NO_INDEX.encode(), 1))


def _shown(store: ObjectStore) -> str | None:
    """Returns the last step of the variant whose page is `report.html`; None without such a page."""
    try:
        page = store.get(PAGE)
    except FileNotFoundError:
        return None
    match = _TARGET.search(page) or _BEFORE.search(page)
    return match[1].decode() if match else None


def _linked(page: bytes) -> bytes:
    return page.replace(NO_INDEX.encode(), index_link().encode(), 1)

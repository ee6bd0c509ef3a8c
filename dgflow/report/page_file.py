"""The page files of a root.

`report.html` is the page of the latest variant of a recipe. A root with several variants also has a page for
each variant, named by the variant's last step, and `index.html`, which compares them.
"""

from __future__ import annotations

import re

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
    try:
        old = store.get(PAGE)
    except FileNotFoundError:
        old = b""
    match = _TARGET.search(old) or _BEFORE.search(old)
    other = match[1].decode() if match and match[1].decode() != target else None
    if other is not None:
        store.put(page_of(other), _linked(old))
    names = store.names()
    if other is not None or INDEX in names or page_of(target) in names:
        text = _linked(text)
        store.put(page_of(target), text)
    store.put(PAGE, text)
    return other


def _linked(page: bytes) -> bytes:
    return page.replace(NO_INDEX.encode(), index_link().encode(), 1)

"""Writing the page of a target into its root, and the index if the root holds several variants."""

from __future__ import annotations

from dgflow.report.page_file import INDEX, put_page
from dgflow.report.root_index import render_index
from dgflow.store.objects import ObjectStore


def write_pages(store: ObjectStore, target: str, text: bytes) -> str | None:
    """Writes the page `text` of the variant whose last step is `target`. Returns the name of the variant
    whose page was there before, None without one. Raises StoreError."""
    other = put_page(store, target, text)
    if (index := render_index(store)) is not None:
        store.put(INDEX, index.encode())
    return other

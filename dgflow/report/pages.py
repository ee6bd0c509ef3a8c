"""Writes the page of a target into its root, and the index where the root holds several variants."""

from __future__ import annotations

from dgflow.report.page_file import INDEX, put_page
from dgflow.report.root_index import render_index
from dgflow.store.objects import ObjectStore


def write_pages(store: ObjectStore, target: str, text: bytes) -> str | None:
    """Write the page `text` of the variant whose last step is `target`. The name of the variant whose page
    stood there before, None without. Raises StoreError."""
    other = put_page(store, target, text)
    if (index := render_index(store)) is not None:
        store.put(INDEX, index.encode())
    return other

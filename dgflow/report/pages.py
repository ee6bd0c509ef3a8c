"""Writes the page of a target into its root, and the index if the root holds several variants."""

from __future__ import annotations

from dgflow.report.page_file import INDEX, PAGE, page_of, put_page
from dgflow.report.root_index import render_index
from dgflow.store.objects import ObjectStore


def write_pages(store: ObjectStore, target: str, text: bytes) -> str | None:
    """Writes the page `text` of the variant whose last step is `target`.

    Returns the last step of the variant whose page was `report.html` before, None without another variant.
    Raises StoreError if the store fails.
    """
    other = put_page(store, target, text)
    if (index := render_index(store)) is not None:
        store.put(INDEX, index.encode())
    return other


def page_lines(store: ObjectStore, other: str | None, page: str | None = None) -> list[str]:
    """Returns lines with the addresses of the page, of the other variant's page and of the index.

    Args:
        other: the return value of `write_pages`.
        page: the address of the page, by default that in the root.
    """
    lines = [f"report: {page or f'{store.url}/{PAGE}'}"]
    if other is not None:
        lines.append(f"the earlier page, of {other}: {store.url}/{page_of(other)}")
    if store.size(INDEX) is not None:
        lines.append(f"all variants of this root: {store.url}/{INDEX}")
    return lines

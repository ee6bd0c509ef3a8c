"""Writes the page of a target into its root, and the index if the root holds several variants; removes the
pages of removed variants."""

from __future__ import annotations

from collections.abc import Collection

from dgflow.report.page_file import INDEX, PAGE, drop_index, drop_page, page_of, put_page
from dgflow.report.root_index import render_index
from dgflow.store.objects import ObjectStore
from dgflow.store.runs import records


def write_pages(store: ObjectStore, target: str, text: bytes) -> str | None:
    """Writes the page `text` of the variant whose last step is `target`.

    Returns the last step of the variant whose page was `report.html` before, None without another variant.
    Raises StoreError if the store fails.
    """
    other = put_page(store, target, text)
    if (index := render_index(store)) is not None:
        store.put(INDEX, index.encode())
    return other


def drop_pages(store: ObjectStore, removed: Collection[str]) -> None:
    """Removes the pages of the variants that needed one of the `removed` steps, and writes the index again.

    Raises StoreError if the store fails.
    """
    targets = {each.target: {step.name for step in each.steps} for each in records(store)}
    gone = [target for target, steps in targets.items() if not steps.isdisjoint(removed)]
    for target in gone:
        drop_page(store, target, [each for each in targets if each not in gone])
    if (index := render_index(store)) is not None:
        store.put(INDEX, index.encode())
    else:
        drop_index(store)


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

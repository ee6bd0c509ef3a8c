"""Roots of smoke runs, kept apart from others: random weights lie in them under official names, and must
never be met by a real run."""

from __future__ import annotations

from dgflow.store.objects import ObjectStore

VERSION = 1  # raised by hand when the made files change
MARK = "smoke.json"


def is_smoke_run(store: ObjectStore) -> bool:
    """Whether this is the root of one."""
    return store.size(MARK) is not None


def check_root(store: ObjectStore, smoke: bool) -> None:
    """See that the root is of the kind that is asked for; a new one becomes a smoke run's where that is
    `smoke`.

    Raises:
        ValueError: the root is of the other kind.
    """
    found = store.get(MARK) if is_smoke_run(store) else None
    mark = f'{{"smoke":{VERSION}}}'.encode()
    if not smoke and found is not None:
        raise ValueError(
            f"expected a root of real runs, found the smoke run of {store.url}, whose weights are random; "
            "give another root, or --smoke"
        )
    if smoke and found is None:
        others = [name for name in store.names() if name != "dgflow.json"]
        if others:
            raise ValueError(
                f"expected a new root for a smoke run, found other work in {store.url} "
                f"({', '.join(others[:3])}), which must not meet "
                "random weights; give another root, as in --root runs/mine-smoke"
            )
        store.create(MARK, mark)
    elif smoke and found != mark:
        raise ValueError(
            f"expected the smoke run of this version of dgflow, found another one's in {store.url}; give a "
            "new root"
        )

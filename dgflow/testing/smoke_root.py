"""Keep the roots of smoke runs separate from others, because they contain random weights under official
names.
"""

from dgflow.store.objects import ObjectStore

VERSION = 2  # increment when the written files change
MARK = "smoke.json"
MEANINGLESS = "smoke run: toy networks with random weights on synthetic images; the results are meaningless"


def is_smoke_run(store: ObjectStore) -> bool:
    """True if this is the root of a smoke run."""
    return store.size(MARK) is not None


def check_root(store: ObjectStore, smoke: bool, write: bool = True) -> None:
    """Raise ValueError if the root is of the other kind; with `smoke` and `write`, mark a new root."""
    recorded = store.get(MARK) if is_smoke_run(store) else None
    mark = f'{{"smoke":{VERSION}}}'.encode()
    if not smoke and recorded is not None:
        raise ValueError(
            f"expected a root of real runs, found the smoke run of {store.url}, whose weights are random; "
            "give another root, or --smoke"
        )
    if smoke and recorded is None:
        others = [name for name in store.names() if name != "dgflow.json"]
        if others:
            raise ValueError(
                f"expected a new root for a smoke run, found {', '.join(others[:3])} in {store.url}, which "
                "must not be mixed with random weights; give another root, such as --root runs/mine-smoke"
            )
        if write:
            store.create(MARK, mark)
    elif smoke and recorded != mark:
        raise ValueError(
            f"expected a smoke run of this version of dgflow, found one of another version in {store.url}; "
            "give a new root"
        )

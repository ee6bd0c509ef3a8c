"""Open the store that a url names."""

from dgflow.store.local import LocalStore
from dgflow.store.memory import MemoryStore
from dgflow.store.objects import ObjectStore
from dgflow.store.urls import split_url


def open_store(url: str) -> ObjectStore:
    """Open the store at a url: a path, `file:///path`, `memory://name` (one process) or `s3://bucket/prefix`.

    S3 takes its endpoint and credentials from the usual AWS environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
    ..., or a profile or role). No request is made here. Raises ValueError for a url that is not understood,
    was mistyped or contains credentials, and StoreError for a local path that cannot be a root.
    """
    scheme, rest = split_url(url)
    if scheme == "s3":
        from dgflow.store.s3 import S3Store  # importing s3fs takes half a second

        return S3Store(rest)
    return MemoryStore(rest) if scheme == "memory" else LocalStore(rest)


def as_typed(store: ObjectStore) -> str:
    """The root as given on a command line: the path of a local root, otherwise the url."""
    return str(store.root) if isinstance(store, LocalStore) else store.url

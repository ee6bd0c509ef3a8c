"""Opens the store that a url names."""

import re
from urllib.parse import unquote

from dgflow.store.local import LocalStore
from dgflow.store.memory import MemoryStore
from dgflow.store.objects import ObjectStore


def open_store(url: str) -> ObjectStore:
    """The store at a url: a path, `file:///path`, `memory://name` (one process) or `s3://bucket/prefix`.

    S3 takes its endpoint and credentials from the usual AWS environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
    ..., or a profile or role). No request is made here. Raises ValueError for a url that is not understood or
    carries credentials, StoreError where a local root cannot be one.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme in ("s3", "memory") and re.search(r"[@?#]", rest):
        # The url itself is not repeated: what stands before the @ or after the ? may be a secret.
        raise ValueError(
            f"expected {scheme}://NAME/PREFIX without '@', '?' or '#', found one of them: take credentials "
            "and options out of the url and"
            " give them in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL)"
        )
    if separator and scheme == "s3":
        from dgflow.store.s3 import S3Store  # importing s3fs takes half a second

        return S3Store(rest)
    if separator and scheme == "memory":
        return MemoryStore(rest)
    if not separator or scheme == "file":
        if separator and not rest.startswith("/"):
            raise ValueError(f"expected file:///path with three slashes, found {url!r}")
        return LocalStore(unquote(rest) if separator else url)
    raise ValueError(
        "expected a path, file:///path, memory://name or s3://bucket/prefix, found a url of scheme "
        f"{scheme!r}"
    )

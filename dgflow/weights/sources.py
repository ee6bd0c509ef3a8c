"""Parses the source of a weight file, one line of text, and obtains the file from it. The forms are:

/path/file.pt, file:///path/file.pt       a file of this host
https://host/path/file.pt                 a download that can be resumed
hf:owner/repo/path/file.pt@revision       a file on the Hugging Face hub, by default of main, which may change
s3://bucket/path/file.pt                  an object, with the credentials of the environment
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from dgflow.store.objects import StoreError
from dgflow.store.open import open_store
from dgflow.store.urls import split_url
from dgflow.weights import https
from dgflow.weights.scratch import digest, file_errors, write_whole

LARGEST = 2**20  # maximum bytes of a settings file
_GLANCE = 5.0  # timeout in seconds when a server is only asked whether a file changed

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_PATH = r"[A-Za-z0-9][A-Za-z0-9._/-]*"
_HUB = re.compile(rf"hf:(?P<repo>{_NAME}/{_NAME})/(?P<path>{_PATH})(@(?P<revision>{_PATH}))?")


@dataclass(frozen=True)
class Source:
    """The source of one file.

    Attributes:
        text: the text as given, with a lower-case scheme and an absolute path. It may hold a secret.
        public: the text without possible secrets, for records and messages.
        file_name: the last component of the path.
    """

    kind: Literal["file", "https", "hf", "s3"]
    text: str
    public: str
    file_name: str


def parse_source(text: str) -> Source:
    """Parse the text of a source.

    Raises ValueError for a text in none of the forms above, a path with `..`, or a URL with a password.
    """
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError("expected the source of a file as one line of text, found a control character in it")
    scheme = text.partition(":")[0].lower() if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", text) else ""
    text = scheme + text[len(scheme) :]
    if scheme in ("https", "http"):
        https.check_url(text)
        file_name = unquote(urlsplit(text).path).rpartition("/")[2]
        source = Source("https", text, https.public(text), file_name)
    elif scheme == "hf":
        match = _HUB.fullmatch(text)
        if not match or _has_dots(text):
            shown = re.split("[?#]", text)[0]
            raise ValueError(f"expected hf:owner/repo/path/file@revision, found {shown!r}")
        source = Source("hf", text, text, match["path"].rpartition("/")[2])
    elif scheme == "s3":
        open_store(text)  # raises for credentials in the url
        if _has_dots(text):
            raise ValueError(f"expected s3://bucket/path/file without '.' and '..', found {text!r}")
        source = Source("s3", text, text, text.rpartition("/")[2])
    elif scheme in ("", "file"):
        path = _local(text, scheme)
        source = Source("file", str(path), path.as_uri(), path.name)
    else:
        if scheme in ("s3a", "s3n"):
            split_url(text)  # raises, with the accepted form
        raise ValueError(
            "expected a path, file:///..., https://..., hf:owner/repo/path@revision or s3://..., found a "
            f"{scheme!r} url"
        )
    if not source.file_name:
        raise ValueError(f"expected the source of one file, found no file name in {source.public}")
    return source


def recordable(text: str) -> Source:
    """Parse the text of a source that will be recorded, as a recipe's is.

    Raises ValueError as `parse_source` does, and for a URL with a query, which may hold a secret.
    """
    source = parse_source(text)
    if source.kind == "https" and source.public != source.text:
        raise ValueError(
            "expected a source without a query or credentials, which would be recorded, found "
            f"{source.public}?...; put the file on S3, on a disk or by hand into the root, and name that"
        )
    return source


def _local(text: str, scheme: str) -> Path:
    if scheme and not text.startswith("file:///"):
        raise ValueError(f"expected file:///path with three slashes, found {text!r}")
    path = unquote(text.removeprefix("file://")) if scheme else text
    if "\0" in path:
        raise ValueError(f"expected a path, found a zero byte in {text!r}")
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"expected a path, found a user who is unknown on this host in {text!r}") from error


def _has_dots(text: str) -> bool:
    return any(part in (".", "..") for part in re.split("[/@]", text))


class Obtained(NamedTuple):
    """A file on this host, with the version that its server gave, or "" without one."""

    path: Path
    etag: str = ""


def obtain(source: Source, destination: Path, *, unsized: bool = False) -> Obtained:
    """Obtain the file. A file of this host keeps its own path; any other file is written to `destination`, or
    to the hub's cache.

    Args:
        unsized: as in `https.download`.

    Raises:
        FileNotFoundError: there is no such path or object.
        StoreError: the file cannot be fetched, or cannot be written here.
    """
    if source.kind == "file":
        with file_errors(f"read {source.text}"):
            is_file = Path(source.text).is_file()
        if not is_file:
            raise FileNotFoundError(f"expected a weight file at {source.text}, found nothing; check the path")
        return Obtained(Path(source.text))
    if source.kind == "hf":
        return Obtained(_from_hub(source))
    if source.kind == "https":
        return Obtained(destination, https.download(source.text, destination, unsized=unsized))
    folder, _, name = source.text.rpartition("/")
    before = version(source)
    write_whole(destination, open_store(folder).get(name))
    same = before is not None and before == version(source)
    return Obtained(destination, before.etag if before is not None and same else "")


class Version(NamedTuple):
    """Facts about a source's content that need no download.

    Attributes:
        etag: the server's ETag, or the Last-Modified time; "" if it sends neither.
        sha256: the digest; "" if computing it would need a download.
    """

    size: int | None
    etag: str = ""
    sha256: str = ""


def version(source: Source) -> Version | None:
    """The current version at the source; None if the source is unreachable from here. A local file is read to
    compute its digest."""
    try:
        if source.kind == "file":
            path = Path(source.text)
            if not path.is_file():
                return None
            return Version(path.stat().st_size, sha256=digest(path))
        if source.kind == "s3":
            folder, _, name = source.text.rpartition("/")
            from dgflow.store.s3 import S3Store  # importing s3fs takes half a second

            store = open_store(folder)
            assert isinstance(store, S3Store)
            head = store.version(name)
            return None if head is None else Version(*head)
        if source.kind == "https":
            return Version(*https.head(source.text, _GLANCE))
        return _version_on_hub(source)
    except Exception:  # this host may lack the disk, network or credentials of the first use
        return None


def _version_on_hub(source: Source) -> Version:
    """The size and, for large files, the sha256, which the hub sends as their ETag."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    match = _HUB.fullmatch(source.text)
    assert match
    endpoint = os.environ.get("HF_ENDPOINT")
    url = hf_hub_url(match["repo"], match["path"], revision=match["revision"], endpoint=endpoint)
    found = get_hf_file_metadata(url, timeout=_GLANCE)
    is_digest = re.fullmatch(r"[0-9a-f]{64}", found.etag or "")
    return Version(found.size, sha256=found.etag or "" if is_digest else "")


def neighbour(source: Source, name: str) -> bytes | None:
    """Read the small file `name` beside the source; None if it is missing or unreachable."""
    try:
        if source.kind == "file":
            path = Path(source.text).with_name(name)
            return path.read_bytes() if path.is_file() and path.stat().st_size <= LARGEST else None
        if source.kind == "s3":
            store = open_store(source.text.rpartition("/")[0])
            size = store.size(name)
            return store.get(name) if size is not None and size <= LARGEST else None
    except Exception:  # the file is optional
        return None
    return None


def _from_hub(source: Source) -> Path:
    """Download to the hub's cache and return the path. The environment configures cache and credentials
    (HF_HOME, HF_TOKEN)."""
    from huggingface_hub import hf_hub_download  # importing takes 0.3 s

    match = _HUB.fullmatch(source.text)
    assert match
    repo, path, revision = match["repo"], match["path"], match["revision"]
    endpoint = os.environ.get("HF_ENDPOINT")  # the library reads it only on import
    try:
        return Path(hf_hub_download(repo, path, revision=revision, endpoint=endpoint))
    except Exception as error:  # errors of huggingface_hub and of its client share no base class
        line = (str(error).strip().splitlines() or [""])[0]  # partly text from the server
        found = re.sub(r"[^ -~]", "?", line)[:200]
        raise StoreError(
            f"could not download {source.public}: {type(error).__name__}: {found}; check the name and "
            "revision, the network, and HF_TOKEN if the repository is not public"
        ) from error

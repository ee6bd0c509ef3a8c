"""Where a weight file comes from, as one line of text, and getting it from there.

    /path/file.pt, file:///path/file.pt       a file of this host
    https://host/path/file.pt                 a download that can go on after an interruption
    hf:owner/repo/path/file.pt@revision       a file on the Hugging Face hub; without @revision the main branch, which may move
    s3://bucket/path/file.pt                  an object, with the credentials of the environment

Checksums and where the file is kept are left to `fetch`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from dgflow.store.objects import StoreError, open_store
from dgflow.weights import https

_HUB = re.compile(r"hf:(?P<repo>[^/@]+/[^/@]+)/(?P<path>[^@]+?)(@(?P<revision>[^@]+))?")


@dataclass(frozen=True)
class Source:
    """One place of one file.

    Attributes:
        text: what was given.
        public: the same without what may be a secret, and with an absolute path: for records and messages.
        file_name: the last part of its path.
    """

    kind: Literal["file", "https", "hf", "s3"]
    text: str
    public: str
    file_name: str


def parse_source(text: str) -> Source:
    """Raises ValueError where the text is none of the forms above, or a url with a password in it."""
    scheme = text.partition(":")[0] if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", text) else ""
    if scheme in ("https", "http"):
        https.check_url(text)
        found = Source("https", text, https.public(text), unquote(urlsplit(text).path).rpartition("/")[2])
    elif scheme == "hf":
        match = _HUB.fullmatch(text)
        if not match:
            raise ValueError(f"expected hf:owner/repo/path/file@revision, found {text!r}")
        found = Source("hf", text, text, match["path"].rpartition("/")[2])
    elif scheme == "s3":
        open_store(text)  # refuses credentials in the url
        found = Source("s3", text, text, text.rpartition("/")[2])
    elif scheme in ("", "file"):
        if scheme and not text.startswith("file:///"):
            raise ValueError(f"expected file:///path with three slashes, found {text!r}")
        path = Path(unquote(urlsplit(text).path) if scheme else text).expanduser().absolute()
        found = Source("file", str(path), path.as_uri(), path.name)
    else:
        raise ValueError(f"expected a path, file:///..., https://..., hf:owner/repo/path@revision or s3://..., found a {scheme!r} url")
    if not found.file_name:
        raise ValueError(f"expected the source of one file, found no file name in {found.public}")
    return found


def obtain(source: Source, destination: Path) -> Path:
    """Get the file and return its path: `destination`, or where it lies on this host already.

    Raises:
        FileNotFoundError: a path or an object where nothing is.
        StoreError: it cannot be had from there.
    """
    if source.kind == "file":
        if not Path(source.text).is_file():
            raise FileNotFoundError(f"expected a weight file at {source.text}, found nothing; check the path")
        return Path(source.text)
    if source.kind == "https":
        https.download(source.text, destination)
        return destination
    if source.kind == "s3":
        folder, _, name = source.text.rpartition("/")
        data = open_store(folder).get(name)
        destination.parent.mkdir(parents=True, exist_ok=True)
        destination.write_bytes(data)
        return destination
    return _from_hub(source)


def _from_hub(source: Source) -> Path:
    """By way of the hub's own cache and credentials (HF_HOME, HF_TOKEN)."""
    from huggingface_hub import hf_hub_download  # a third of a second to import: only where it is used

    match = _HUB.fullmatch(source.text)
    assert match  # parse_source has seen to it
    try:
        endpoint = os.environ.get("HF_ENDPOINT")  # given by hand, for the library looks only when it is imported
        return Path(hf_hub_download(match["repo"], match["path"], revision=match["revision"], endpoint=endpoint))
    except Exception as error:  # huggingface_hub's own errors and its client's have no base class in common
        found = (str(error).strip().splitlines() or [""])[0]
        raise StoreError(
            f"could not download {source.public}: {type(error).__name__}: {found}; check the name and revision, the network, and"
            " HF_TOKEN where the repository is not public"
        ) from error

"""The source of a weight file, as one line of text, and getting the file from there.

/path/file.pt, file:///path/file.pt       a file of this host
https://host/path/file.pt                 a download that can go on after an interruption
hf:owner/repo/path/file.pt@revision       a file on the Hugging Face hub; without @revision the main
                                          branch, which may move
s3://bucket/path/file.pt                  an object, with the credentials of the environment
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from dgflow.store.objects import StoreError
from dgflow.store.open import open_store
from dgflow.weights import https
from dgflow.weights.scratch import file_errors

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_PATH = r"[A-Za-z0-9][A-Za-z0-9._/-]*"
_HUB = re.compile(rf"hf:(?P<repo>{_NAME}/{_NAME})/(?P<path>{_PATH})(@(?P<revision>{_PATH}))?")


@dataclass(frozen=True)
class Source:
    """One place of one file.

    Attributes:
        text: what was given, its scheme in lower case; a path is absolute. It may hold a secret.
        public: the same without what may be a secret, and with an absolute path: for records and messages.
        file_name: the last part of its path.
    """

    kind: Literal["file", "https", "hf", "s3"]
    text: str
    public: str
    file_name: str


def parse_source(text: str) -> Source:
    """Raises ValueError where the text is none of the forms above, leads out of its place by `..`, or is a
    url with a password in it."""
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError("expected the source of a file as one line of text, found a control character in it")
    scheme = text.partition(":")[0].lower() if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", text) else ""
    text = scheme + text[len(scheme) :]
    if scheme in ("https", "http"):
        https.check_url(text)
        found = Source("https", text, https.public(text), unquote(urlsplit(text).path).rpartition("/")[2])
    elif scheme == "hf":
        match = _HUB.fullmatch(text)
        if not match or _has_steps(text):
            raise ValueError(
                f"expected hf:owner/repo/path/file@revision, found {re.split('[?#]', text)[0]!r}"
            )
        found = Source("hf", text, text, match["path"].rpartition("/")[2])
    elif scheme == "s3":
        open_store(text)  # refuses credentials in the url
        if _has_steps(text):
            raise ValueError(f"expected s3://bucket/path/file without '.' and '..', found {text!r}")
        found = Source("s3", text, text, text.rpartition("/")[2])
    elif scheme in ("", "file"):
        path = _local(text, scheme)
        found = Source("file", str(path), path.as_uri(), path.name)
    else:
        raise ValueError(
            "expected a path, file:///..., https://..., hf:owner/repo/path@revision or s3://..., found a "
            f"{scheme!r} url"
        )
    if not found.file_name:
        raise ValueError(f"expected the source of one file, found no file name in {found.public}")
    return found


def recordable(text: str) -> Source:
    """The place that a recipe names, fit to be written down.

    Raises:
        ValueError: as `parse_source`, and for a url with a query, which can hold a secret.
    """
    found = parse_source(text)
    if found.kind == "https" and found.public != found.text:
        raise ValueError(
            "expected a source without a query or credentials, which would be written down, found "
            f"{found.public}?...; put the file on s3: or on a disk, or by hand into the root, and name that"
        )
    return found


def _local(text: str, scheme: str) -> Path:
    if scheme and not text.startswith("file:///"):
        raise ValueError(f"expected file:///path with three slashes, found {text!r}")
    path = unquote(text.removeprefix("file://")) if scheme else text
    if "\0" in path:
        raise ValueError(f"expected a path, found a zero byte in {text!r}")
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(
            f"expected a path, found a user who is not known on this host in {text!r}"
        ) from error


def _has_steps(text: str) -> bool:
    return any(part in (".", "..") for part in re.split("[/@]", text))


def obtain(source: Source, destination: Path, *, unsized: bool = False) -> Path:
    """Get the file and return its path: `destination`, or where it lies on this host already.

    Args:
        unsized: as in `https.download`.

    Raises:
        FileNotFoundError: a path or an object where nothing is.
        StoreError: it cannot be had from there, or not be written here.
    """
    if source.kind == "file":
        with file_errors(f"read {source.text}"):
            is_there = Path(source.text).is_file()
        if not is_there:
            raise FileNotFoundError(f"expected a weight file at {source.text}, found nothing; check the path")
        return Path(source.text)
    if source.kind == "https":
        https.download(source.text, destination, unsized=unsized)
        return destination
    if source.kind == "s3":
        folder, _, name = source.text.rpartition("/")
        data = open_store(folder).get(name)
        with file_errors(f"write {destination}"):
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
        endpoint = os.environ.get(
            "HF_ENDPOINT"
        )  # given by hand, for the library looks only when it is imported
        return Path(
            hf_hub_download(match["repo"], match["path"], revision=match["revision"], endpoint=endpoint)
        )
    except Exception as error:  # huggingface_hub's own errors and its client's have no base class in common
        found = re.sub(r"[^ -~]", "?", (str(error).strip().splitlines() or [""])[0])[
            :200
        ]  # partly the server's
        raise StoreError(
            f"could not download {source.public}: {type(error).__name__}: {found}; check the name and "
            "revision, the network, and HF_TOKEN where the repository is not public"
        ) from error

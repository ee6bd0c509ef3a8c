"""Downloads over HTTPS that go on where they stopped, in the same call or a later one.

Promises that the destination appears only when all of the file is there, as the server counts it, and that bytes of two versions of a file
are never joined: a partial download goes on only if the server says (ETag or Last-Modified) that the file is still the same one. What is
right beyond that, the caller knows by a sha256. One process at a time may download to a destination.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dgflow.store.objects import StoreError

# Seconds before each repetition, halved to doubled at random: nine attempts in about 40 s.
BACK_OFF = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0)
TIMEOUT = 60.0  # seconds without a byte
_CHUNK = 2**20
_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class _Again(Exception):
    """An attempt ended in a way that may pass; its text says how."""


def check_url(url: str) -> str:
    """Return `url`, or raise ValueError: https, or http on this host's loopback, and no password in it."""
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise ValueError(
            f"expected a url without user name and password, found some for {parts.hostname}: download the file by hand instead"
        )
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise ValueError(f"expected https://, found {public(url)}: over http anybody on the way could change the file")
    return url


def public(url: str) -> str:
    """The url without its query and fragment, which may be a secret: for messages and records."""
    parts = urlsplit(url)
    host = f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname
    return f"{parts.scheme}://{host}{parts.path}"


def download(url: str, destination: Path) -> None:
    """Download to `destination`, by way of a `.partial` file beside it that a later call goes on with.

    Raises:
        ValueError: a url that `check_url` refuses.
        StoreError: the server refuses, or gives up too often.
    """
    check_url(url)
    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = _Partial(destination)
    for pause in (*BACK_OFF, None):
        try:
            _attempt(url, partial)
            os.replace(partial.path, destination)
            partial.note.unlink(missing_ok=True)
            return
        except (_Again, urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            if pause is None:
                found = f"{error or type(error).__name__}, after {len(BACK_OFF) + 1} attempts; {partial.size()} bytes are kept"
                raise StoreError(f"could not download {public(url)}: {found}; run again to go on from there") from error
            time.sleep(pause * random.uniform(0.5, 2.0))


class _Partial:
    """A download that is not complete, and a note of what it is a part of."""

    def __init__(self, destination: Path) -> None:
        self.path = destination.with_name(f"{destination.name}.partial")
        self.note = destination.with_name(f"{destination.name}.partial.json")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def version(self, url: str) -> dict[str, Any]:
        """What the bytes that are here are a part of: `validator` and `size`; {} where that is not known."""
        with contextlib.suppress(OSError, ValueError):
            note = json.loads(self.note.read_text())
            if isinstance(note, dict) and note.get("url") == public(url) and note.get("validator") and self.size():
                return note
        return {}

    def begin(self, url: str, validator: str | None, size: int | None) -> None:
        """Throw away what is here: another version of the file follows."""
        self.path.write_bytes(b"")
        self.note.write_text(json.dumps({"url": public(url), "validator": validator, "size": size}))


def _attempt(url: str, partial: _Partial) -> None:
    """Receive what is missing. Raises _Again, or one of the libraries' errors, where something is still missing then."""
    known = partial.version(url)
    start = partial.size() if known else 0
    if known and known.get("size") == start:
        return
    headers = {"User-Agent": "dgflow", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": known["validator"]}
    with _opened(urllib.request.Request(url, headers=headers), partial) as reply:
        _check_reply(reply, url)
        validator = _validator(reply)
        if start and reply.status == 206 and (_range_start(reply), validator) == (start, known["validator"]):
            size = known.get("size")
        elif reply.status == 200:
            size = int(reply.headers["Content-Length"]) if reply.headers.get("Content-Length", "").isdigit() else None
            partial.begin(url, validator, size)
        else:
            partial.begin(url, None, None)  # the next attempt asks for all of it
            raise _Again(f"the server sent a range that was not asked for (status {reply.status})")
        with partial.path.open("ab") as file:
            while chunk := reply.read(_CHUNK):
                file.write(chunk)
    if size is not None and partial.size() != size:
        raise _Again(f"the connection ended after {partial.size()} of {size} bytes")


def _opened(request: urllib.request.Request, partial: _Partial) -> Any:
    url = request.full_url
    try:
        return urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # what is here is longer than the file
            partial.begin(url, None, None)
            raise _Again("the server has less than was downloaded before") from error
        if error.code in _TRANSIENT_STATUS:
            raise _Again(f"the server answers {error.code} {error.reason}") from error
        raise StoreError(
            f"could not download {public(url)}: the server answers {error.code} {error.reason}; see on the publisher's page whether the"
            " file has moved or needs a login"
        ) from error
    except urllib.error.URLError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise StoreError(
                f"could not download {public(url)}: its certificate cannot be verified ({error.reason}); check this host's clock and"
                " certificates (SSL_CERT_FILE)"
            ) from error
        raise


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> urllib.request.Request | None:
        try:
            check_url(newurl)
        except ValueError as error:
            raise StoreError(f"could not download {public(req.full_url)}: it redirects to a place that is not trusted; {error}") from error
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_reply(reply: Any, url: str) -> None:
    if reply.headers.get("Content-Encoding", "identity") != "identity":
        raise StoreError(f"could not download {public(url)}: the server sends it encoded, which was not asked for; download it by hand")
    if reply.headers.get_content_type() == "text/html":
        raise StoreError(
            f"could not download {public(url)}: expected a file, found a web page; open it in a browser (a login, a question, a proxy?)"
            " and download the file by hand"
        )


def _validator(reply: Any) -> str | None:
    """What `If-Range` may name: a strong ETag, else the time of the last change."""
    etag = reply.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else reply.headers.get("Last-Modified")


def _range_start(reply: Any) -> int | None:
    found = re.match(r"bytes (\d+)-", reply.headers.get("Content-Range", ""))
    return int(found[1]) if found else None

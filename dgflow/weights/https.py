"""Downloads over HTTPS that go on where they stopped, in the same call or a later one.

The destination appears only when the file is whole, as the server counts it. No server can send more than it
announced, and bytes of two versions of a file are never joined: a partial download goes on only if the server
says (ETag or Last-Modified) that the file is still the same. Errors show no secret part of a url, and nothing
that a server wrote. One process at a time may download to a destination.
"""

from __future__ import annotations

import http.client
import os
import random
import re
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dgflow.store.objects import StoreError
from dgflow.weights.partial import Partial

# Seconds before each repetition, halved to doubled at random: nine attempts in about 40 s.
BACK_OFF = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0)
TIMEOUT = 60.0  # seconds without a byte
MOST = 64 * 2**30  # bytes of a file whose size the server does not announce
_CHUNK = 2**20
_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class _Again(Exception):
    """An attempt ended in a way that may pass; its text says how."""


def check_url(url: str) -> str:
    """Return `url`, or raise ValueError: https, or http on this host's loopback, in ASCII without spaces, and
    no password in it."""
    if re.search(r"[^!-~]", url):
        raise ValueError(
            "expected a url of ASCII letters, digits and signs, found a space or another character in it: "
            "write %20 and so on"
        )
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(
            "expected a url with a host's name and a port from 0 to 65535, found another"
        ) from error
    if parts.username or parts.password:
        raise ValueError(
            f"expected a url without user name and password, found some for {host}: download the file by "
            "hand instead"
        )
    if not host:
        raise ValueError("expected https://HOST/PATH, found a url without a host")
    if parts.scheme != "https" and not _is_loopback_http(url):
        raise ValueError(
            f"expected https://, found {parts.scheme}://{_host(url)}: over http anybody on the way could "
            "change the file"
        )
    return url


def public(url: str) -> str:
    """The url without its query and fragment, which may be a secret: for messages and records."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{_host(url)}{parts.path}"


def _host(url: str) -> str:
    """Host and port, IPv6 in brackets."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _is_loopback_http(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname in _LOOPBACK


def download(url: str, destination: Path, *, unsized: bool = False) -> None:
    """Download to `destination`, by way of a `.partial` file beside it that a later call goes on with.

    Args:
        unsized: whether to take a reply that does not say where it ends, so that nobody can tell a cut one.
            For callers with a sha256.

    Raises:
        ValueError: a url that `check_url` refuses.
        StoreError: the server refuses, gives up too often or sends too much; or the file cannot be written.
    """
    check_url(url)
    partial = Partial(destination)
    for pause in (*BACK_OFF, None):
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            _attempt(url, partial, unsized)
            partial.finish()
            return
        except (
            _Again,
            urllib.error.URLError,
            http.client.HTTPException,
            ConnectionError,
            TimeoutError,
            ssl.SSLError,
        ) as error:
            if pause is None:
                # An HTTPException's text is the server's.
                shown = (
                    type(error).__name__
                    if isinstance(error, http.client.HTTPException)
                    else f"{error or type(error).__name__}"
                )
                found = f"{shown}, after {len(BACK_OFF) + 1} attempts; {partial.size()} bytes are kept"
                raise StoreError(
                    f"could not download {public(url)}: {found}; run again to go on from there"
                ) from error
            time.sleep(pause * random.uniform(0.5, 2.0))
        except OSError as error:
            raise StoreError(
                f"could not download {public(url)} to {partial.path}: {error.strerror or error}; see that it "
                "is no link, that it can be written and that the disk has room, or set XDG_CACHE_HOME to a "
                "folder elsewhere, and run again"
            ) from error


def _attempt(url: str, partial: Partial, unsized: bool) -> None:
    """Receive what is missing. Raises _Again, or one of the libraries' errors, where something is still
    missing then."""
    known = partial.version(url)
    start = partial.size() if known else 0
    if known and known["size"] == start:
        return
    headers = {"User-Agent": "dgflow", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": known["validator"]}
    with _opened(urllib.request.Request(url, headers=headers), partial) as reply:
        _check_reply(reply, url)
        validator = _validator(reply)
        begins, size = _range(reply) if reply.status == 206 else (0, _length(reply, url))
        if (
            start
            and reply.status == 206
            and (begins, validator) == (start, known["validator"])
            and known["size"] in (None, size)
        ):
            partial.describe(url, validator, size)
        elif reply.status == 200:
            if (
                size is None
                and not unsized
                and reply.headers.get("Transfer-Encoding", "").lower() != "chunked"
            ):
                raise StoreError(
                    f"could not download {public(url)}: the server does not say where the file ends; give "
                    "its sha256, or download it by hand"
                )
            partial.begin(url, validator, size)
        else:
            partial.begin(url, None, None)  # the next attempt asks for all of it
            raise _Again(f"the server sent a range that was not asked for (status {reply.status})")
        _receive(reply, url, partial, size)
    if size is not None and partial.size() != size:
        raise _Again(f"the connection ended after {partial.size()} of {size} bytes")


def _receive(reply: Any, url: str, partial: Partial, size: int | None) -> None:
    received = partial.size()
    with partial.opened(os.O_APPEND) as file:
        while chunk := reply.read(_CHUNK):
            received += len(chunk)
            if received > (MOST if size is None else size):
                partial.begin(url, None, None)
                limit = (
                    f"{MOST} bytes, which is as much as is taken from one that does not say how many"
                    if size is None
                    else f"{size} bytes, which is what it announced"
                )
                raise StoreError(f"could not download {public(url)}: the server sends more than {limit}")
            left = memoryview(chunk)
            while left:
                left = left[file.write(left) :]


def _opened(request: urllib.request.Request, partial: Partial) -> Any:
    url = request.full_url
    try:
        return urllib.request.build_opener(_Redirects(url)).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        status = f"{error.code} {http.client.responses.get(error.code, '')}".strip()
        if error.code == 416:  # what is here is longer than the file
            partial.begin(url, None, None)
            raise _Again("the server has less than was downloaded before") from error
        if error.code in _TRANSIENT_STATUS:
            raise _Again(f"the server answers {status}") from error
        raise StoreError(
            f"could not download {public(url)}: the server answers {status}; see on the publisher's page "
            "whether the file has moved or needs a login"
        ) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise StoreError(
                f"could not download {public(url)}: its certificate cannot be verified "
                f"({error.reason.verify_message}); check this host's clock and certificates (SSL_CERT_FILE)"
            ) from error
        raise
    except (http.client.InvalidURL, ValueError) as error:
        raise StoreError(
            f"could not download {public(url)}: it redirects to what is no address; download the file by hand"
        ) from error


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server only to where `check_url` would go, and from other hosts never to this one."""

    def __init__(self, first: str) -> None:
        self._first = first

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        try:
            check_url(newurl)
            if _is_loopback_http(newurl) and not _is_loopback_http(self._first):
                raise ValueError(f"expected https://, found http://{_host(newurl)}, which is this host")
        except ValueError as error:
            raise StoreError(
                f"could not download {public(self._first)}: it redirects to a place that is not trusted; "
                f"{error}"
            ) from error
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_reply(reply: Any, url: str) -> None:
    if reply.headers.get("Content-Encoding", "identity") != "identity":
        raise StoreError(
            f"could not download {public(url)}: the server sends it encoded, which was not asked for; "
            "download it by hand"
        )
    if reply.headers.get_content_type() == "text/html":
        raise StoreError(
            f"could not download {public(url)}: expected a file, found a web page; open it in a browser (a "
            "login, a question, a proxy?) and download the file by hand"
        )


def _validator(reply: Any) -> str | None:
    """The validator that `If-Range` may name: a strong ETag, else the time of the last change."""
    etag = reply.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else reply.headers.get("Last-Modified")


def _length(reply: Any, url: str) -> int | None:
    """The length that the server announces.

    Raises StoreError for what is no number, which the libraries may understand in another way.
    """
    found = set(reply.headers.get_all("Content-Length", []))
    if not found:
        return None
    length = found.pop()
    if found or not re.fullmatch(r"[0-9]{1,18}", length):
        raise StoreError(
            f"could not download {public(url)}: the server's length of the file is no number; download it "
            "by hand"
        )
    return int(length)


def _range(reply: Any) -> tuple[int | None, int | None]:
    """The first byte of a 206 and the size of the whole file; None twice where it does not say both."""
    found = re.fullmatch(
        r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})", reply.headers.get("Content-Range", "")
    )
    return (int(found[1]), int(found[2])) if found else (None, None)

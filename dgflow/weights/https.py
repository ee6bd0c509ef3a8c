"""HTTPS downloads that resume after an interruption, in the same call or a later one.

The destination appears only once all bytes that the server announced have arrived. Bytes of two versions of a
file (by ETag or Last-Modified) are never joined. The caller has to check the sha256. Errors show neither the
query of a URL nor text from a server. Only one process at a time may download to a destination.
"""

from __future__ import annotations

import http.client
import os
import random
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dgflow.store.objects import StoreError
from dgflow.weights.partial import Partial

# Seconds before each retry, times a random factor from one half to two: nine attempts in about 40 s.
BACK_OFF = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0)
TIMEOUT = 60.0  # maximum seconds between two bytes
MOST = 64 * 2**30  # maximum bytes of a file whose size the server does not announce
_CHUNK = 2**20
_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class _Again(Exception):
    """Raised by a transient failure of an attempt; the message names the failure."""


_TRANSIENT = (
    _Again,
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
)


def check_url(url: str) -> str:
    """Return the URL if it is https (or http to this host's loopback), ASCII without spaces, and without a
    password. Raises ValueError otherwise.
    """
    if re.search(r"[^!-~]", url):
        raise ValueError(
            "expected a url of ASCII letters, digits and signs, found a space or another character in it: "
            "encode it, such as a space as %20"
        )
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(
            "expected a url with a host name and a port from 0 to 65535, found another form"
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
            f"expected https://, found {parts.scheme}://{_host(url)}: over http, anybody on the network path "
            "could change the file"
        )
    return url


def public(url: str) -> str:
    """The URL for messages and records, without its query and fragment, which may hold secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{_host(url)}{parts.path}"


def _host(url: str) -> str:
    """Host and port; an IPv6 address is in brackets."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _is_loopback_http(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname in _LOOPBACK


def _failure(url: str, reason: str) -> StoreError:
    return StoreError(f"could not download {public(url)}: {reason}")


def download(url: str, destination: Path, *, unsized: bool = False) -> str:
    """Download to `destination`, through a `.partial` file beside it that a later call resumes.

    Returns the server's strong ETag, or else the file's Last-Modified time; "" if the server sends neither.

    Args:
        unsized: accept a reply without a length, whose truncation would go unnoticed. Only for callers that
            check a sha256.

    Raises:
        ValueError: `check_url` refuses the URL.
        StoreError: the server refuses, fails too often or sends too much, or the file cannot be written.
    """
    check_url(url)
    partial, version = Partial(destination), ""
    for pause in (*BACK_OFF, None):
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            _attempt(url, partial, unsized)
            version = partial.version(url).get("validator", "")
            partial.finish()
            break
        except _TRANSIENT as error:
            if pause is None:
                text = "" if isinstance(error, http.client.HTTPException) else str(error)  # server's text
                kept = f"{partial.size()} bytes are kept; run again to continue from there"
                attempts = f"after {len(BACK_OFF) + 1} attempts"
                raise _failure(url, f"{text or type(error).__name__}, {attempts}; {kept}") from error
            time.sleep(pause * random.uniform(0.5, 2.0))
        except OSError as error:
            raise StoreError(
                f"could not download {public(url)} to {partial.path}: {error.strerror or error}; check that "
                "the path is not a link, that it can be written and that the disk has room, or set "
                "XDG_CACHE_HOME to another folder, and run again"
            ) from error
    return version


def head(url: str, timeout: float) -> tuple[int | None, str]:
    """The size that the server announces, and the version as `download` returns it. Raises an error if the
    server does not answer."""
    headers = {"User-Agent": "dgflow", "Accept-Encoding": "identity"}
    request = urllib.request.Request(check_url(url), headers=headers, method="HEAD")
    with urllib.request.build_opener(_Redirects(url)).open(request, timeout=timeout) as reply:
        _check_reply(reply, url)
        return _length(reply, url), _validator(reply) or ""


def _attempt(url: str, partial: Partial, unsized: bool) -> None:
    """Receive the missing bytes. Raises _Again or another of `_TRANSIENT` if some are still missing."""
    version = partial.version(url)
    start = partial.size() if version else 0
    if version and version["size"] == start:
        return
    headers = {"User-Agent": "dgflow", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": version["validator"]}
    with _opened(urllib.request.Request(url, headers=headers), partial) as reply:
        _check_reply(reply, url)
        validator = _validator(reply)
        begin, size = _range(reply) if reply.status == 206 else (0, _length(reply, url))
        resumes = start and reply.status == 206 and (begin, validator) == (start, version["validator"])
        if resumes and version["size"] in (None, size):
            partial.describe(url, validator, size)
        elif reply.status == 200:
            chunked = reply.headers.get("Transfer-Encoding", "").lower() == "chunked"
            if size is None and not unsized and not chunked:
                remedy = "give the file's sha256, or download it by hand"
                raise _failure(url, f"the server does not announce the size of the file; {remedy}")
            partial.begin(url, validator, size)
        else:
            partial.begin(url, None, None)  # the next attempt requests the whole file
            raise _Again(f"the server sent a range that was not requested (status {reply.status})")
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
                    f"{MOST} bytes, the limit for a file of unannounced size"
                    if size is None
                    else f"{size} bytes, the size that it announced"
                )
                raise _failure(url, f"the server sends more than {limit}")
            rest = memoryview(chunk)
            while rest:
                rest = rest[file.write(rest) :]


def _opened(request: urllib.request.Request, partial: Partial) -> Any:
    url = request.full_url
    try:
        return urllib.request.build_opener(_Redirects(url)).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        status = f"{error.code} {http.client.responses.get(error.code, '')}".strip()
        if error.code == 416:  # more bytes were received than the file has
            partial.begin(url, None, None)
            raise _Again("the server's file is shorter than the part downloaded before") from error
        if error.code in _TRANSIENT_STATUS:
            raise _Again(f"the server answers {status}") from error
        remedy = "check on the publisher's page whether the file has moved or needs a login"
        raise _failure(url, f"the server answers {status}; {remedy}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            found = f"its certificate cannot be verified ({error.reason.verify_message})"
            remedy = "check this host's clock and certificates (SSL_CERT_FILE)"
            raise _failure(url, f"{found}; {remedy}") from error
        if isinstance(error.reason, ssl.SSLError) and error.reason.reason in (
            "WRONG_VERSION_NUMBER",
            "HTTP_REQUEST",
        ):
            raise _failure(url, "the server answers without TLS; correct the address") from error
        if isinstance(error.reason, socket.gaierror) and error.reason.errno == socket.EAI_NONAME:
            found = f"the host {_host(url)} is unknown ({error.reason.strerror})"
            raise _failure(url, f"{found}; check the address and this host's network") from error
        raise
    except (http.client.InvalidURL, ValueError) as error:
        raise _failure(url, "it redirects to an invalid address; download the file by hand") from error


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to URLs that `check_url` accepts, and never from another host to this one."""

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
            raise _failure(self._first, f"it redirects to an untrusted address; {error}") from error
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_reply(reply: Any, url: str) -> None:
    if reply.headers.get("Content-Encoding", "identity") != "identity":
        raise _failure(url, "the server sends an encoding that was not requested; download the file by hand")
    if reply.headers.get_content_type() == "text/html":
        remedy = (
            "open it in a browser (it may ask for a login or a confirmation) and download the file by hand"
        )
        raise _failure(url, f"expected a file, found a web page; {remedy}")


def _validator(reply: Any) -> str | None:
    """The value for `If-Range`: a strong ETag, or else the Last-Modified time."""
    etag = reply.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else reply.headers.get("Last-Modified")


def _length(reply: Any, url: str) -> int | None:
    """The announced number of bytes, None without one. Raises StoreError for several values, or a value that
    is not a number."""
    lengths = set(reply.headers.get_all("Content-Length", []))
    if not lengths:
        return None
    length = lengths.pop()
    if lengths or not re.fullmatch(r"[0-9]{1,18}", length):
        raise _failure(url, "the size that the server announces is not a number; download the file by hand")
    return int(length)


def _range(reply: Any) -> tuple[int | None, int | None]:
    """(first byte of a 206 reply, bytes of the whole file); (None, None) unless the reply states both."""
    content_range = reply.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})", content_range)
    return (int(match[1]), int(match[2])) if match else (None, None)

"""A real HTTP server on loopback with ranges and ETags, and the faults that downloads meet, one after the
other."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import serving


@dataclass
class FileServer:
    """A file server's content and faults. `url` is its address; `requests` are the headers of each request so
    far, with the path as "path".
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)  # path -> content
    headers: dict[str, str] = field(default_factory=dict)  # sent with every file
    # Of the next requests: how many bytes to send before cutting, ("status", n), ("to", url), ("raw", bytes
    # of the whole reply), ("stall", such bytes, after which nothing comes), None.
    faults: list[Any] = field(default_factory=list)
    ranges: bool = True
    requests: list[dict[str, str]] = field(default_factory=list)


@contextlib.contextmanager
def file_server() -> Iterator[FileServer]:
    """Run it in a thread of this process, until the end of the block."""
    served = FileServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, served)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with serving.served(Handler) as served.url:
        yield served


def _answer(handler: BaseHTTPRequestHandler, served: FileServer) -> None:
    path = handler.path.partition("?")[0]
    served.requests.append(
        {**{name.lower(): value for name, value in handler.headers.items()}, "path": handler.path}
    )
    fault = served.faults.pop(0) if served.faults else None
    data = served.files.get(path)
    if isinstance(fault, tuple) and fault[0] in ("raw", "stall"):
        handler.close_connection = True
        handler.wfile.write(fault[1])
        if fault[0] == "stall":
            handler.connection.recv(1)  # returns when the other side gives up
        return
    if isinstance(fault, tuple):
        handler.send_response(fault[1] if fault[0] == "status" else 302)
        if fault[0] == "to":
            handler.send_header("Location", fault[1])
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    if data is None:
        handler.send_error(404)
        return
    start = _start(handler, served)
    if start >= len(data) > 0:
        handler.send_error(416)
        return
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
    for name, value in {
        "Content-Length": str(len(data) - start),
        "Content-Type": "application/octet-stream",
        **served.headers,
    }.items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command == "GET":
        handler.wfile.write(data[start : None if fault is None else start + fault])
    handler.close_connection = True


def _start(handler: BaseHTTPRequestHandler, served: FileServer) -> int:
    wanted = handler.headers.get("Range")
    if not wanted or not served.ranges:
        return 0
    condition = handler.headers.get("If-Range")
    current = (served.headers.get("ETag"), served.headers.get("Last-Modified"))
    return (
        int(wanted.removeprefix("bytes=").partition("-")[0])
        if condition is None or condition in current
        else 0
    )

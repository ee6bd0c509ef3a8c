"""An S3 server of a few lines on loopback, whose replies a test chooses: what real servers say that cannot be
had here (another region, no conditional writes, expired credentials). It checks no signatures."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

Reply = tuple[int, str, dict[str, str]]  # status, S3's code, headers


@dataclass
class TinyS3:
    """Objects by `/bucket/key`; `answer(verb, headers)` may give an error in the place of a reply."""

    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    exclusive: bool = True  # heeds `If-None-Match: *`
    answer: Callable[[str, dict[str, str]], Reply | None] = lambda verb, headers: None
    requests: list[str] = field(default_factory=list)  # the verbs


def _handler(server: TinyS3) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        metadata: dict[str, str] = {}  # noqa: RUF012 (of all connections)

        def log_message(self, *_: object) -> None:
            pass

        def reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
            self.reply(
                status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode(), headers
            )

        def handle_one(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            server.requests.append(self.command)
            if (
                found := server.answer(self.command, {k.lower(): v for k, v in self.headers.items()})
            ) is not None:
                return self.error(*found)
            parts = urlsplit(self.path)
            key, query = unquote(parts.path), parse_qs(parts.query)
            match self.command:
                case "PUT":
                    if server.exclusive and self.headers.get("If-None-Match") and key in server.objects:
                        return self.error(412, "PreconditionFailed")
                    server.objects[key] = _unchunked(body, self.headers.get("Content-Encoding", ""))
                    self.metadata[key] = self.headers.get("x-amz-meta-dgflow-writer", "")
                    return self.reply(200, headers={"ETag": '"0"'})
                case "DELETE":
                    server.objects.pop(key, None)
                    return self.reply(204)
                case "GET" if "list-type" in query:
                    return self.reply(200, _listing(server, key, query))
            if key not in server.objects:
                return self.error(404, "NoSuchKey")
            writer = self.metadata.get(key, "")
            known = {
                "ETag": '"0"',
                "Last-Modified": formatdate(usegmt=True),
                "x-amz-meta-dgflow-writer": writer,
            }
            return self.reply(200, server.objects[key], known)

        do_GET = do_HEAD = do_PUT = do_DELETE = handle_one  # noqa: N815

    return Handler


def _unchunked(body: bytes, encoding: str) -> bytes:
    """The bytes of an upload in signed chunks."""
    if "aws-chunked" not in encoding:
        return body
    data = b""
    while body:
        head, _, rest = body.partition(b"\r\n")
        size = int(head.split(b";")[0], 16)
        if size == 0:
            break
        data, body = data + rest[:size], rest[size + 2 :]
    return data


def _listing(server: TinyS3, bucket: str, query: dict[str, list[str]]) -> bytes:
    bucket = f"{bucket.rstrip('/')}/"
    keys = sorted(key for key in server.objects if key.startswith(bucket + query.get("prefix", [""])[0]))
    rows = "".join(
        f"<Contents><Key>{escape(key.removeprefix(bucket))}</Key><Size>{len(server.objects[key])}</Size>"
        "<LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
        for key in keys
    )
    return f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>".encode()


@contextlib.contextmanager
def tiny_s3() -> Iterator[TinyS3]:
    """A running server, ended on leaving."""
    server = TinyS3()
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()

"""An HTTP proxy on loopback in front of an S3 server, whose faults a test switches during a run; it also
counts the requests."""

import contextlib
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_BUSY = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: %d\r\nConnection: "
    b"close\r\n\r\n",
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Please reduce your '
    b"request rate.</Message></Error>",
)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PIECE = 65536


@dataclass
class FaultyProxy:
    """Forwards requests to `server`. Every fault is initially off; all of them may be changed at any time, by
    any thread."""

    server: tuple[str, int]
    latency: float = 0.0  # seconds added to every request
    rate: float | None = None  # bytes per second of each connection's requests; None: unlimited
    busy: float = 0.0  # share of the requests that are answered 503 SlowDown and not forwarded
    silent: bool = False  # accept requests and answer nothing, with the connection open
    cuts: int = 0  # number of next PUTs whose body is cut in the middle, on both sides
    meanwhile: Callable[[], object] | None = (
        None  # called when a body is half sent, before it is cut: the server may be killed there
    )
    requests: Counter[str] = field(default_factory=Counter)  # forwarded requests by verb, listings as LIST
    refused: int = 0  # requests answered 503
    cut: int = 0  # bodies that were cut
    seed: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._port = 0
        self.accept()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def accept(self) -> None:
        """Listens, initially or again, always at the same port."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def refuse(self) -> None:
        """Closes all connections and refuses new ones, as a host without a server does."""
        listener, self._listener = self._listener, None
        if listener:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            open_ = list(self._open)
        for each in open_:
            self._close(each)

    def _serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._connection, args=(client,), daemon=True).start()

    def _connection(self, client: socket.socket) -> None:
        server = None
        try:
            with self._lock:
                self._open.add(client)
            server = socket.create_connection(self.server, timeout=10)
            server.settimeout(None)
            with self._lock:
                self._open.add(server)
            threading.Thread(target=self._replies, args=(server, client), daemon=True).start()
            self._requests(client, server)
        except OSError:
            pass
        finally:
            self._close(client)
            if server:
                self._close(server)

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        """Forwards the requests of one connection, until either side closes it or a fault does."""
        rest = b""
        while True:
            while b"\r\n\r\n" not in rest:
                if not (data := client.recv(_PIECE)):
                    return
                rest += data
            head, _, rest = rest.partition(b"\r\n\r\n")
            verb = _verb(head)
            with self._lock:
                self.requests[verb] += 1
                busy = self._random.random() < self.busy
                cut = verb == "PUT" and self.cuts > 0
                self.cuts -= cut
            time.sleep(self.latency)
            if self.silent:
                while client.recv(_PIECE):
                    pass
                return
            if busy:
                self.refused += 1
                client.sendall(_BUSY[0] % len(_BUSY[1]) + _BUSY[1])
                return
            server.sendall(head + b"\r\n\r\n")
            found = _LENGTH.search(head)
            length = int(found[1]) if found else 0
            forwarded = 0
            while forwarded < length:
                if not rest and not (rest := client.recv(_PIECE)):
                    return
                piece, rest = rest[: length - forwarded], rest[length - forwarded :]
                if cut:
                    server.sendall(piece[: max(1, len(piece) // 2)])
                    if self.meanwhile:
                        self.meanwhile()
                    self.cut += 1
                    return
                if self.rate:
                    time.sleep(len(piece) / self.rate)
                server.sendall(piece)
                forwarded += len(piece)

    def _replies(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(_PIECE):
                client.sendall(data)
        self._close(client)
        self._close(server)

    def _close(self, one: socket.socket) -> None:
        with self._lock:
            self._open.discard(one)
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()


def _verb(head: bytes) -> str:
    verb, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
    return "LIST" if verb == "GET" and "list-type=2" in target else verb


@contextlib.contextmanager
def faulty_proxy(url: str) -> Iterator[FaultyProxy]:
    """Context of a proxy to the server at a URL of the form `http://host:port`, closed on leaving."""
    parts = urlsplit(url)
    proxy = FaultyProxy((parts.hostname or "127.0.0.1", parts.port or 80))
    try:
        yield proxy
    finally:
        proxy.refuse()

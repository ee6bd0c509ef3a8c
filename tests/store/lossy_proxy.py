"""A TCP proxy on loopback that loses replies: the request reaches the server, but the client gets no
reply.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit


class LossyProxy:
    """Forwards connections to a server; cuts the client off instead of passing on the next `lose` replies to
    PUT requests."""

    def __init__(self, listener: socket.socket, server: tuple[str, int]) -> None:
        self.url = "http://{}:{}".format(*listener.getsockname())
        self.lose = 0
        self.lost = 0
        self._listener = listener
        self._server = server

    def serve(self) -> None:
        """Accept connections until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                putting = threading.Event()
                threading.Thread(target=self._requests, args=(client, server, putting), daemon=True).start()
                threading.Thread(target=self._replies, args=(client, server, putting), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket, putting: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if data.startswith((b"PUT ", b"GET ", b"HEAD ")):
                    (putting.set if data.startswith(b"PUT ") else putting.clear)()
                server.sendall(data)
        _close(client, server)

    def _replies(self, client: socket.socket, server: socket.socket, putting: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if putting.is_set() and self.lost < self.lose and not data.startswith(b"HTTP/1.1 100"):
                    self.lost += 1
                    break
                client.sendall(data)
        _close(client, server)


@contextlib.contextmanager
def lossy_proxy(url: str) -> Iterator[LossyProxy]:
    """A proxy to the server at a url of the form `http://host:port`, closed on leaving."""
    parts = urlsplit(url)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = LossyProxy(listener, (parts.hostname or "127.0.0.1", parts.port or 80))
        thread = threading.Thread(target=proxy.serve, daemon=True)
        thread.start()
        yield proxy
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()

"""A cloud whose hosts are namespaces, and Ray's node provider for it.

`Cloud` runs in the test's process, the only one that can make hosts; `NamespaceProvider`, in the autoscaler
on the head's host, asks it through a socket file. Ray's autoscaler (v2) accepts a custom provider as
`provider: {type: external, module: ...}`. It does not log in to the hosts (`disable_node_updaters`): they
start Ray themselves, as images with a start script do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any

from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import NODE_KIND_HEAD, TAG_RAY_NODE_KIND, TAG_RAY_NODE_STATUS, TAG_RAY_USER_NODE_TYPE

HEAD = "head"  # the head's id in the cloud


class Cloud:
    """Starts and ends hosts on requests at `socket`, in one thread: a host dies with the thread that has
    started it."""

    def __init__(self, socket: Path, start: Callable[[dict[str, str]], Callable[[], None]]) -> None:
        """`start(environment)` starts a host whose Ray has this environment, and returns a function that ends
        it."""
        self._start = start
        self._ends: dict[str, Callable[[], None]] = {}
        self._tags = {
            HEAD: {
                TAG_RAY_NODE_KIND: NODE_KIND_HEAD,
                TAG_RAY_USER_NODE_TYPE: HEAD,
                TAG_RAY_NODE_STATUS: "up-to-date",
            }
        }
        self.started = 0
        self._listener = Listener(str(socket), "AF_UNIX")
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def hosts(self) -> int:
        """The current number of hosts, without the head."""
        return len(self._ends)

    def _serve(self) -> None:
        while True:
            with self._listener.accept() as asked:
                request, *arguments = asked.recv()
                if request == "close":
                    return
                asked.send(getattr(self, f"_{request}")(*arguments))

    def close(self, socket: Path) -> None:
        with Client(str(socket), "AF_UNIX") as asked:
            asked.send(("close",))
        self._thread.join()
        self._listener.close()

    def _nodes(self) -> dict[str, dict[str, str]]:
        return self._tags

    def _create(self, tags: dict[str, str], count: int) -> None:
        for _ in range(count):
            self.started += 1
            identity = f"i-{self.started}"
            environment = {
                "RAY_CLOUD_INSTANCE_ID": identity,
                "RAY_NODE_TYPE_NAME": tags[TAG_RAY_USER_NODE_TYPE],
            }
            self._ends[identity] = self._start(environment)
            self._tags[identity] = {**tags, TAG_RAY_NODE_STATUS: "up-to-date"}

    def _terminate(self, identity: str) -> None:
        self._tags.pop(identity, None)
        if end := self._ends.pop(identity, None):
            end()


class NamespaceProvider(NodeProvider):
    """The interface that Ray's autoscaler calls, forwarded to the cloud at the socket that its configuration
    names."""

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        return [
            identity for identity, tags in self._ask("nodes").items() if tag_filters.items() <= tags.items()
        ]

    def is_running(self, node_id: str) -> bool:
        return node_id in self._ask("nodes")

    def is_terminated(self, node_id: str) -> bool:
        return not self.is_running(node_id)

    def node_tags(self, node_id: str) -> dict[str, str]:
        return self._ask("nodes").get(node_id, {})

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> None:
        del node_config
        self._ask("create", tags, count)

    def terminate_node(self, node_id: str) -> None:
        self._ask("terminate", node_id)

    def _ask(self, *request: Any) -> Any:
        with Client(self.provider_config["cloud"], "AF_UNIX") as asked:
            asked.send(request)
            return asked.recv()

"""Determines how many workers of a training fit, and requests more from an autoscaler.

The requests end with the driver, even if it is killed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import ray
from ray.autoscaler.sdk import request_resources
from ray.train import ControllerError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from dgflow.runtime.cluster import slots
from dgflow.runtime.machine import elastic
from dgflow.runtime.ray_private import is_start_timeout

POLL_SECONDS = 2.0
# Seconds of waiting for room before the first message, and between messages.
PATIENCE_SECONDS, REMINDER_SECONDS = 15.0, 60.0


class Capacity:
    """Room for at most `most` workers of a training. An autoscaler is asked for room for all of them if a
    person requested that number (`asked`), otherwise for one."""

    def __init__(self, use_gpu: bool, most: int, *, asked: bool, tell: Callable[[str], None]) -> None:
        self._resource, self._gpus = ("GPU", 1.0) if use_gpu else ("CPU", 0.0)
        self._most, self._tell = most, tell
        self._wanted = most if asked else 1
        self._limit = most  # lower after a start that failed for lack of room
        self._taken = 0  # workers of the latest start
        self._cluster = elastic()
        self.settled()

    def taken(self) -> int:
        """Returns the number of workers to start now; waits while a cluster has no room for one."""
        groups = []
        while not (room := slots(self._gpus)):
            # An autoscaler counts placement groups as demand, and they end with the driver.
            groups = groups or [placement_group([{self._resource: 1}]) for _ in range(self._wanted)]
            self._wait()
            time.sleep(POLL_SECONDS)
        for group in groups:
            remove_placement_group(group)
        self._taken, self._limit = min(self._limit, room), self._most
        return self._taken

    def refused(self, error: BaseException) -> bool:
        """True if workers could not start for lack of room, for example after the death of a host. The next
        start then has fewer workers."""
        if not (isinstance(error, ControllerError) and is_start_timeout(error.controller_failure)):
            return False
        # A quarter fewer: other work may occupy much of a cluster, and each attempt costs half a minute.
        self._limit = max(1, self._taken - max(1, self._taken // 4))
        self._wait()
        return True

    def release(self) -> None:
        """Removes the placement groups of workers whose start failed, which Ray Train 2.60 can leave until
        the job ends."""
        job = ray.get_runtime_context().get_job_id()
        for name, group in placement_group_table().items():
            if name.endswith(job) and group["state"] != "REMOVED":  # a group's id ends with its job's
                remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(name))))

    def settled(self) -> None:
        """Records that workers are running, which ends any waiting."""
        self._waiting_since: float | None = None
        self._last_message = -math.inf

    def ask(self) -> None:
        """Requests room for all wanted workers from an autoscaler while fewer are running.

        Call repeatedly: every 20 s Ray Train replaces this request by one for the number of workers that it
        started. For the same reason the request ends soon after the driver.
        """
        if self._cluster and self._taken < self._wanted:
            request_resources(bundles=[{self._resource: 1}] * self._wanted)

    def leave(self) -> None:
        """Withdraws the request for more room."""
        if self._cluster and self._wanted > 1:
            request_resources(bundles=[])

    def _wait(self) -> None:
        now = time.monotonic()
        self._waiting_since = now if self._waiting_since is None else self._waiting_since
        if now - self._waiting_since >= PATIENCE_SECONDS and now - self._last_message >= REMINDER_SECONDS:
            self._last_message = now
            total = ray.cluster_resources().get(self._resource, 0)
            free = f", {ray.available_resources().get(self._resource, 0):g} of them free" if total else ""
            workers = f"{self._wanted} workers that need" if self._wanted > 1 else "1 worker that needs"
            self._tell(
                f"waiting for room: {workers} 1 {self._resource}{' each' * (self._wanted > 1)}, the "
                f"cluster has {total:g} {self._resource}s now{free}"
            )

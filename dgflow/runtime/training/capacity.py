"""How many workers a training has room for, and getting it more.

Promises that what is asked of an autoscaler is asked no longer once the driver is gone, however it went.
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

from dgflow.runtime.cluster import elastic, slots
from dgflow.runtime.ray_private import is_start_timeout

POLL_SECONDS = 2.0
PATIENCE_SECONDS, REMINDER_SECONDS = 15.0, 60.0  # of waiting for room, before it is told, and told again


class Room:
    """Where the workers of a training go: how many there is room for, asking an autoscaler for more, and
    waiting while there is none."""

    def __init__(self, use_gpu: bool, most: int, *, asked: bool, tell: Callable[[str], None]) -> None:
        """`most` workers; `asked` where a person wants so many, for which an autoscaler is to start hosts.

        Else it is to start one.
        """
        self._resource, self._each, self._most, self._tell = (
            ("GPU" if use_gpu else "CPU"),
            (1.0 if use_gpu else 0.0),
            most,
            tell,
        )
        self._wanted = most if asked else 1
        self._limit, self._taken = (
            most,
            0,
        )  # fewer than most, after a start for which there was no room although it seemed so
        self._cluster = elastic()
        self.settled()

    def taken(self) -> int:
        """The number of workers to start now. Waits on a cluster without room for one."""
        places = []
        while not (found := slots(self._each)):
            # What an autoscaler sees as demand, and what goes with the driver.
            places = places or [placement_group([{self._resource: 1}]) for _ in range(self._wanted)]
            self._wait()
            time.sleep(POLL_SECONDS)
        for place in places:
            remove_placement_group(place)
        self._taken, self._limit = min(self._limit, found), self._most
        return self._taken

    def refused(self, error: BaseException) -> bool:
        """Whether workers could not be started for want of room, such as after the death of a host: fewer are
        tried next."""
        if not (isinstance(error, ControllerError) and is_start_timeout(error.controller_failure)):
            return False
        self._limit = max(
            1, self._taken - max(1, self._taken // 4)
        )  # other work may hold much of a cluster: each try costs half a minute
        self._wait()
        return True

    def release(self) -> None:
        """Give up the room of workers whose start failed: Ray Train 2.60 keeps it for the life of the job
        where they had begun to start."""
        job = ray.get_runtime_context().get_job_id()
        for name, group in placement_group_table().items():
            if (
                name.endswith(job) and group["state"] != "REMOVED"
            ):  # the job's number is the end of each of its groups'
                remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(name))))

    def settled(self) -> None:
        """Workers are at work: what they waited is over."""
        self._since: float | None = None  # waiting
        self._told = -math.inf

    def ask(self) -> None:
        """While workers are at work: ask an autoscaler for room for all that are wanted.

        Ray Train asks every 20 s for as many as were started, in place of this: so it is to be asked again,
            and ends soon after the driver.
        """
        if self._cluster and self._taken < self._wanted:
            request_resources(bundles=[{self._resource: 1}] * self._wanted)

    def leave(self) -> None:
        """Ask for no more room."""
        if self._cluster and self._wanted > 1:
            request_resources(bundles=[])

    def _wait(self) -> None:
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since >= PATIENCE_SECONDS and now - self._told >= REMINDER_SECONDS:
            self._told = now
            total, free = (
                found.get(self._resource, 0) for found in (ray.cluster_resources(), ray.available_resources())
            )
            workers = f"{self._wanted} workers that need" if self._wanted > 1 else "1 worker that needs"
            now_there = f"{total:g} {self._resource}s now" + (f", {free:g} of them free" if total else "")
            self._tell(
                f"waiting for room: {workers} 1 {self._resource}{' each' * (self._wanted > 1)}, the "
                f"cluster has {now_there}"
            )

"""Follow a root until its runs have ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dgflow.client.open_root import OpenRoot
from dgflow.client.open_root import open as open_client
from dgflow.store import runs
from dgflow.store.address import is_root
from dgflow.store.objects import StoreError, StoreRefusal
from dgflow.track.tracker import Updater, Written


def follow(
    url: str, updater: Updater, *, wait: Callable[[], None], say: Callable[[str], None]
) -> Iterator[Written]:
    """Write the content of the root, and what its runs commit, until no run is active; yields as
    `Updater.update`.

    Waits for a root that does not exist yet, has no run yet, or is temporarily unreachable.

    Args:
        wait: blocks until the root should be read again.
        say: receives a line that says why the function waits, whenever the reason changes.

    Raises:
        ValueError: the tracker cannot be reached, or `url` cannot be a root.
        StoreRefusal: access to the root is denied.
    """
    root: OpenRoot | None = None
    said = ""
    while True:
        waiting = f"waiting for a run in {url}"
        try:
            if root is not None:
                root.refresh()
            elif is_root(url):
                root = open_client(url)
            if root is not None and (records := root.runs):
                # Active drivers are looked up before the update, which then includes all that ended runs
                # committed.
                at_work = {driver.record.id for driver in runs.alive(root.store)}
                yield from updater.update(root)
                if not at_work:
                    last = records[-1]
                    say(f"no run is active: the last one, of {last.asked.recipe or last.id}, {_ended(last)}")
                    return
                waiting = ""
        except StoreRefusal:
            raise
        except StoreError as error:
            waiting = f"waiting, as the root cannot be reached: {error}"
        if waiting and waiting != said:
            say(waiting)
        said = waiting
        wait()


def _ended(record: runs.RunRecord) -> str:
    return f"ended: {record.outcome}" if record.outcome else "ended unexpectedly"

"""Follows a root until its runs have ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dgflow.client.open_root import OpenRoot
from dgflow.client.open_root import open as open_client
from dgflow.store import runs
from dgflow.store.address import is_root
from dgflow.store.objects import StoreError, StoreRefusal
from dgflow.track.tracker import Teller, Told


def follow(
    url: str, teller: Teller, *, wait: Callable[[], None], say: Callable[[str], None]
) -> Iterator[Told]:
    """Tell what is in the root, and what its runs commit, until none is at work; yields as `Teller.tell`.

    A root that is not there yet, has no run yet, or cannot be reached for a while is waited for.

    Args:
        wait: returns when the root is to be looked at again.
        say: takes a line about what is waited for, once each time that this changes.

    Raises:
        ValueError: the tracker cannot be reached, or what is at `url` cannot be a root.
        StoreRefusal: the root may not be read.
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
                # What was committed before the drivers' last signs of life went is seen by what follows.
                at_work = {driver.record.id for driver in runs.alive(root.store)}
                yield from teller.tell(root)
                if not at_work:
                    last = records[-1]
                    say(f"no run is at work: the last one, of {last.asked.recipe or last.id}, {_ended(last)}")
                    return
                waiting = ""
        except StoreRefusal:
            raise
        except StoreError as error:
            waiting = f"waiting for the root to be reached: {error}"
        if waiting and waiting != said:
            say(waiting)
        said = waiting
        wait()


def _ended(record: runs.RunRecord) -> str:
    return f"ended: {record.outcome}" if record.outcome else "ended without a word"

"""The command `dgflow track`: writes the content of a root to an experiment tracker."""

import time
from collections import Counter

from dgflow.cli.guard import print_json
from dgflow.client.open_root import open as open_client
from dgflow.runtime.terminal import tell
from dgflow.track.follow import follow as followed
from dgflow.track.tracker import Tracker, Updater, Written


def track(url: str, tracker: Tracker, *, follow: bool, every: float, json: bool) -> int:
    """Write a root to a tracker; prints one line per run of the tracker that receives items, and how to view
    the tracker. Returns the exit status.
    """
    updater = Updater(tracker)
    written: list[Written] = []
    try:
        if follow:
            stream = followed(url, updater, wait=lambda: time.sleep(every), say=tell)
        else:
            stream = updater.update(open_client(url))
        for each in stream:
            written.append(each)
            print(each, flush=True)
    finally:
        updater.close()
    if not written:
        print(f"nothing new: {tracker.where} has all of {url}")
    print(f"to view it: {tracker.look}")
    if json:
        print_json(_json(tracker, written))
    return 0


def _json(tracker: Tracker, written: list[Written]) -> dict[str, object]:
    runs: dict[str, Counter[str]] = {}
    for each in written:
        runs.setdefault(each.run.name, Counter()).update(each.counts)
    return {
        "where": tracker.where,
        "look": tracker.look,
        "runs": {name: dict(found) for name, found in runs.items()},
    }

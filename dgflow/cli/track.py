"""`dgflow track ROOT --to TRACKER`: write the content of a root to an experiment tracker. Writes nothing to
the root.
"""

import time
from collections import Counter

from dgflow.cli.guard import print_json, tell
from dgflow.client.open_root import open as open_client
from dgflow.track.follow import follow as followed
from dgflow.track.tracker import Teller, Told, Tracker


def track(url: str, tracker: Tracker, *, follow: bool, every: float, json: bool) -> int:
    """Print one line per run of the tracker that receives items, then how to view the tracker."""
    teller = Teller(tracker)
    told: list[Told] = []
    try:
        if follow:
            stream = followed(url, teller, wait=lambda: time.sleep(every), say=tell)
        else:
            stream = teller.tell(open_client(url))
        for each in stream:
            told.append(each)
            print(each, flush=True)
    finally:
        teller.close()
    if not told:
        print(f"nothing new: {tracker.where} has all of {url}")
    print(f"look at it: {tracker.look}")
    if json:
        print_json(_json(tracker, told))
    return 0


def _json(tracker: Tracker, told: list[Told]) -> dict[str, object]:
    runs: dict[str, Counter[str]] = {}
    for each in told:
        runs.setdefault(each.run.name, Counter()).update(each.counts)
    return {
        "where": tracker.where,
        "look": tracker.look,
        "runs": {name: dict(found) for name, found in runs.items()},
    }

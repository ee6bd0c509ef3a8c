"""The interface of a tracker, and `Updater`, which writes to a tracker the items that it lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from dgflow.client.open_root import OpenRoot
from dgflow.track.content import Configuration, Item, Key, Picture, Sheet, TrackedRun, Value, tracked

NOUNS = {Configuration: "configuration", Value: "value", Sheet: "table", Picture: "picture"}


class Tracker(Protocol):
    """A destination of runs. Existing items are looked up in the tracker itself, so a process may be killed
    at any time, and the next one writes the rest.
    """

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """Exceptions that are raised if the tracker cannot be reached, or refuses a request."""
        ...

    @property
    def where(self) -> str:
        """The destination, for messages."""
        ...

    @property
    def look(self) -> str:
        """A command or URL with which the tracker is viewed."""
        ...

    def known(self, run: TrackedRun) -> set[Key]:
        """The keys of the run's existing items."""
        ...

    def write(self, run: TrackedRun, items: Sequence[Item]) -> None:
        """Add new items, in the order of their steps."""
        ...

    def close(self) -> None:
        """Finish open runs. Without this call, no item is lost."""
        ...


@dataclass(frozen=True)
class Written:
    """The items written to one run of the tracker."""

    run: TrackedRun
    items: tuple[Item, ...]

    @property
    def counts(self) -> dict[str, int]:
        """The number of items by kind."""
        return dict(Counter(NOUNS[type(item)] for item in self.items))

    def __str__(self) -> str:
        counts = [f"{count:,} {noun}{'s' * (count > 1)}" for noun, count in self.counts.items()]
        return f"{self.run.name} ({self.run.title}): {', '.join(counts)}"


class Updater:
    """Writes to a tracker the items that it lacks. The existing items are queried once per run."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self._known: dict[str, set[Key]] = {}

    def update(self, root: OpenRoot) -> Iterator[Written]:
        """Write everything in the root that the tracker lacks; yields each run that received items.

        Raises:
            ValueError: the tracker cannot be reached, or refuses a request.
            StoreError: the root cannot be reached.
        """
        for run in tracked(root):
            try:
                if run.id not in self._known:
                    self._known[run.id] = set(self.tracker.known(run))
                known = self._known[run.id]
                if not (items := tuple(item for item in run.items if item.key not in known)):
                    continue
                self.tracker.write(run, items)
            except self.tracker.errors as error:
                raise ValueError(
                    f"could not write {run.name} to {self.tracker.where}: {error}; the same command "
                    "continues from there"
                ) from error
            known |= {item.key for item in items}
            yield Written(run, items)

    def close(self) -> None:
        """Finish the tracker's open runs. Raises ValueError as `update` does."""
        try:
            self.tracker.close()
        except self.tracker.errors as error:
            raise ValueError(
                f"could not finish the runs in {self.tracker.where}: {error}; the same command finishes them"
            ) from error

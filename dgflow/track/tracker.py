"""What a tracker has to do, and telling it what it does not have yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from dgflow.client.open_root import OpenRoot
from dgflow.track.content import Configuration, Item, Key, Picture, Sheet, TrackedRun, Value, tracked

NOUNS = {Configuration: "configuration", Value: "value", Sheet: "table", Picture: "picture"}


class Tracker(Protocol):
    """Where runs are told to. What it has is looked up there and not in notes of ours, so that a process can
    be ended at any moment, and the next one tells the rest."""

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What it raises where it cannot be reached, or refuses."""
        ...

    @property
    def where(self) -> str:
        """The place that is written to, for messages."""
        ...

    @property
    def look(self) -> str:
        """How a person looks at it: a command or a url."""
        ...

    def known(self, run: TrackedRun) -> set[Key]:
        """The keys of the run's items that are there already."""
        ...

    def write(self, run: TrackedRun, items: Sequence[Item]) -> None:
        """Add items that are not there, in order of their steps."""
        ...

    def close(self) -> None:
        """Finish what is open. Nothing is lost without it."""
        ...


@dataclass(frozen=True)
class Told:
    """What one run of the tracker got."""

    run: TrackedRun
    items: tuple[Item, ...]

    @property
    def counts(self) -> dict[str, int]:
        """The number of items by their kind."""
        return dict(Counter(NOUNS[type(item)] for item in self.items))

    def __str__(self) -> str:
        counts = [f"{count:,} {noun}{'s' * (count > 1)}" for noun, count in self.counts.items()]
        return f"{self.run.name} ({self.run.title}): {', '.join(counts)}"


class Teller:
    """Tells a tracker what it lacks. What it has is asked once for each run."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self._known: dict[str, set[Key]] = {}

    def tell(self, root: OpenRoot) -> Iterator[Told]:
        """Write what the root holds and the tracker does not; yields each run that got something.

        Raises:
            ValueError: the tracker cannot be reached, or refuses.
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
                    f"could not write {run.name} to {self.tracker.where}: {error}; the same command goes "
                    "on from there"
                ) from error
            known |= {item.key for item in items}
            yield Told(run, items)

    def close(self) -> None:
        """Finish what the tracker has open. Raises ValueError as `tell`."""
        try:
            self.tracker.close()
        except self.tracker.errors as error:
            raise ValueError(
                f"could not finish the runs in {self.tracker.where}: {error}; the same command finishes them"
            ) from error

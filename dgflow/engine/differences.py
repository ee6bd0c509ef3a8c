"""Differences between a step and the most similar step of its kind in a root, including those of the steps
that both read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dgflow.engine.root import Root
from dgflow.specs.step import Step
from dgflow.store.identity import canonical_json
from dgflow.store.step_store import read_step

SHOWN = 40  # characters of a value in a message
_ABSENT = object()


@dataclass(frozen=True)
class Change:
    """One field that differs, formatted as `guidance[0].weight 2.0 -> 1.0`."""

    path: str
    before: str
    now: str
    leaves: int = 1  # number of plain values that differ

    def __str__(self) -> str:
        return f"{self.path} {self.before} -> {self.now}"


class Recorded:
    """The recorded steps of a root, each read once."""

    def __init__(self, root: Root, current: Mapping[str, Step]) -> None:
        """Takes `current`, the steps of the recipe by fingerprint."""
        self._root, self._current = root, current
        self._names: dict[str, list[str]] | None = None
        self._documents: dict[str, dict[str, Any] | None] = {}

    def nearest(self, step: Step) -> list[Change] | None:
        """Returns the changes from the step of the same kind with the fewest differing leaves; None if there
        is no such step."""
        if self._names is None:
            self._names = {}
            for name in self._root.store.names():
                self._names.setdefault(name.rpartition("-")[0], []).append(name)
        now, best = step.document(), None
        for name in self._names.get(step.kind, []):
            if name != step.name and (before := self._document(name)) is not None:
                changes = self._between(before, now)
                size = (sum(change.leaves for change in changes), len(changes), name)
                best = min(best or (size, changes), (size, changes), key=lambda item: item[0])
        return None if best is None else best[1]

    def _document(self, name: str) -> dict[str, Any] | None:
        if name not in self._documents:
            description = read_step(self._root.store, name)
            self._documents[name] = None if description is None else description["document"]
        return self._documents[name]

    def _between(self, before: dict[str, Any], now: dict[str, Any]) -> list[Change]:
        seen: set[tuple[str, str]] = set()  # steps that several fields read are compared once
        changes = list(self._changes(before["fields"], now["fields"], "", seen))
        versions = before.get("schema_version"), now.get("schema_version")
        if versions[0] != versions[1]:
            changes.append(Change("schema_version", str(versions[0]), str(versions[1])))
        return changes

    def _changes(self, before: Any, now: Any, path: str, seen: set[tuple[str, str]]) -> Iterator[Change]:
        if isinstance(before, dict) and isinstance(now, dict) and before.get("type") == now.get("type"):
            if _reads_another(before, now):
                yield from self._inner(before, now, path, seen)
                before, now = ({**each, "fingerprint": None} for each in (before, now))
            for key in [*now, *(key for key in before if key not in now)]:
                old, new = before.get(key, _ABSENT), now.get(key, _ABSENT)
                yield from self._changes(old, new, f"{path}.{key}".lstrip("."), seen)
        elif isinstance(before, list | tuple) and isinstance(now, list | tuple):
            if not any(isinstance(item, dict) for item in (*before, *now)):
                yield from _change(list(before), list(now), path)
                return
            for number in range(max(len(before), len(now))):
                old, new = (each[number] if number < len(each) else _ABSENT for each in (before, now))
                yield from self._changes(old, new, f"{path}[{number}]", seen)
        else:
            yield from _change(before, now, path)

    def _inner(
        self, before: dict[str, Any], now: dict[str, Any], path: str, seen: set[tuple[str, str]]
    ) -> Iterator[Change]:
        """Returns the differences between the steps that two references name."""
        pair = before["fingerprint"], now["fingerprint"]
        if pair in seen:
            return
        seen.add(pair)
        old = self._document(f"{before['step']}-{pair[0][:12]}")
        new = self._current.get(pair[1])
        if old is None or new is None:
            yield Change(path, f"another {now['step']}", f"{now['step']}-{pair[1][:12]}")
        else:
            yield from self._changes(old["fields"], new.document()["fields"], path, seen)


def _reads_another(before: dict[str, Any], now: dict[str, Any]) -> bool:
    both = all("fingerprint" in each and "step" in each for each in (before, now))
    return both and before["step"] == now["step"] and before["fingerprint"] != now["fingerprint"]


def _change(before: Any, now: Any, path: str) -> Iterator[Change]:
    absent = before is _ABSENT or now is _ABSENT
    if absent or canonical_json(before) != canonical_json(now):
        leaves = max(_leaves(before), _leaves(now))
        yield Change(path, _shown(before), _shown(now), leaves)


def _leaves(value: Any) -> int:
    if isinstance(value, dict | list | tuple):
        items = value.values() if isinstance(value, dict) else value
        return max(1, sum(map(_leaves, items)))
    return 1


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    if isinstance(value, dict) and "step" in value:
        return f"{value['step']}-{value.get('fingerprint', '')[:12]}"
    if isinstance(value, dict) and "type" in value:
        return str(value["type"])
    text = str(value) if value is None or isinstance(value, bool) else canonical_json(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]}…{text[-SHOWN // 2 + 1 :]}"

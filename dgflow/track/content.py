"""The content of a root for experiment trackers, independent of the tracker: runs with configuration, values,
tables and pictures.

Everything is read from receipts. A tracked run is a training, a step with images, a step with a table, or an
arm of such a table. Each item has a key within its run, by which trackers recognise existing items.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from dgflow.client.open_root import OpenRoot
from dgflow.client.steps import StepView
from dgflow.engine.preview import ROWS
from dgflow.images.grids import grid_file
from dgflow.report.layout import markdown_table
from dgflow.report.outcome import Outcome
from dgflow.specs.bound import ABOUT_THE_RUN
from dgflow.specs.figures import Table
from dgflow.specs.recorded import is_reference
from dgflow.specs.step import ResultStep, SampleStep, Slice
from dgflow.steps.judging.features import Features
from dgflow.steps.judging.measure import Measure
from dgflow.store.identity import sha256_hex
from dgflow.store.receipts import Receipt
from dgflow.store.runs import RunRecord
from dgflow.testing.smoke_root import is_smoke_run

BY_SIGMA = ("loss", "accuracy", "calibration_error")  # held-out metrics by range of noise levels
PROVENANCE = ("root", "step", "smoke_run", "command", "commit", "dgflow")
"""Entries of a configuration that say where a run comes from and are not settings."""

Key = tuple[str, int]
"""An item's name and its step, which is the epoch of a training's value and otherwise 0."""


@dataclass(frozen=True)
class Item:
    """One item of a run for a tracker. `time` is the time of the commit, in seconds since the epoch."""

    name: str
    time: float
    step: int = 0

    @property
    def key(self) -> Key:
        return self.name, self.step


@dataclass(frozen=True)
class Configuration(Item):
    """The configuration of a run, as plain values by name. Repeated calls give the same configuration."""

    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def markdown(self) -> str:
        """The configuration as a Markdown table with two columns."""
        rows = [(name, str(value)) for name, value in self.values.items()]
        return markdown_table(("setting", "value"), rows) + "\n"


@dataclass(frozen=True)
class Value(Item):
    """A point of a curve, or a single number."""

    value: float = 0.0


@dataclass(frozen=True)
class Sheet(Item):
    """A table."""

    table: Table = field(default_factory=lambda: Table("", (), ()))

    @property
    def markdown(self) -> str:
        """The table and its note in Markdown."""
        note = f"\n{self.table.note}\n" if self.table.note else ""
        return f"{markdown_table(self.table.heading, self.table.rows)}\n{note}"


@dataclass(frozen=True)
class Picture(Item):
    """The first images of some samples, as a PNG file that is encoded when `png` is called."""

    caption: str = ""
    png: Callable[[], bytes] = field(default=bytes, repr=False)


@dataclass(frozen=True)
class TrackedRun:
    """One run for a tracker. `name` is the folder of a step, or STEP/ARM. `id` is derived from the name and
    the root."""

    root: str  # url of the root
    name: str
    title: str  # title for display
    kind: str
    items: tuple[Item, ...]
    parent: str | None = None  # name of the run whose table has this arm

    @property
    def id(self) -> str:
        return run_id(self.root, self.name)

    @property
    def label(self) -> str:
        """The name followed by the part of the title after the kind, such as `generate-775d065de646 seed
        101`."""
        words = self.title.removeprefix(self.kind).strip(" ,")
        return self.name if self.parent or words == self.title else f"{self.name} {words}".strip()

    def is_label(self, text: str) -> bool:
        """True for a label of this run, including labels written by earlier versions of dgflow."""
        return text == self.name or text.startswith(f"{self.name} ")

    @property
    def group(self) -> str:
        """The last component of the root's URL. It is for display and not unique."""
        return self.root.rstrip("/").rpartition("/")[2]

    @property
    def configuration(self) -> Mapping[str, Any]:
        return next((item.values for item in self.items if isinstance(item, Configuration)), {})


def run_id(root: str, name: str) -> str:
    """The id of a run, 16 hexadecimal digits."""
    return sha256_hex(f"{root} {name}".encode())[:16]


def tracked(root: OpenRoot) -> Iterator[TrackedRun]:
    """Yield the current content of a root, step by step. Later commits need another call.

    Raises:
        StoreError: the root cannot be reached.
        CorruptObject: a receipt or a result is damaged.
    """
    first: dict[str, RunRecord] = {}  # first run that needs a step, by step name in execution order
    for record in root.runs:
        first |= {step.name: record for step in record.steps if step.name not in first}
    smoke = {"smoke_run": True} if is_smoke_run(root.store) else {}
    targets = {record.target for record in root.runs}
    for view in sorted(root.steps(), key=lambda view: (*first, view.name).index(view.name)):
        receipts = view.receipts
        if not receipts:
            continue
        about = _about(root, view, first.get(view.name)) | smoke
        name = _run_name(view, receipts)
        if view.folder == "epochs":
            items = [_configuration(about | _settings(view), receipts), *_curves(receipts)]
            yield _run(root, view, name, items)
        elif view.folder == "shards" and (picture := _picture(view, 0, ROWS, receipts)) is not None:
            yield _run(root, view, name, [_configuration(about | _settings(view), receipts), picture])
        elif view.folder == "results" and isinstance(spec := _spec(view), ResultStep):
            if isinstance(spec, Measure) and view.name not in targets:
                continue  # included in the table of an evaluation
            yield from _result(root, view, name, about, receipts)


def _run(root: OpenRoot, view: StepView, name: str, items: Sequence[Item], **more: Any) -> TrackedRun:
    ordered = sorted(items, key=lambda item: item.step)
    seed = view.settings.get("seed") if view.folder == "epochs" else None
    title = view.title if seed is None else f"{view.title}, seed {seed}"
    return TrackedRun(root.store.url, name, title, view.kind, tuple(ordered), **more)


def _run_name(view: StepView, receipts: Mapping[int, Receipt]) -> str:
    """The step's name. A step that was made again from other inputs has their digest appended."""
    sets: dict[str, str] = {}  # one receipt per set of inputs
    for keys in view.recorded.step_store.committed(view.folder).values():
        sets = keys | sets
    if len(sets) == 1:
        return view.name
    there = view.recorded.step_store.receipts(list(sets.values()))
    first = min(there, key=lambda receipt: receipt.created)
    own = next(iter(receipts.values())).inputs_sha256
    return view.name if own == first.inputs_sha256 else f"{view.name}-from-{own[:8]}"


def _configuration(values: Mapping[str, Any], receipts: Mapping[int, Receipt]) -> Configuration:
    return Configuration("configuration", _first(receipts).created, values=values)


def _first(receipts: Mapping[int, Receipt]) -> Receipt:
    return receipts[min(receipts)]


def _about(root: OpenRoot, view: StepView, record: RunRecord | None) -> dict[str, Any]:
    """The origin of a tracked run: the root, the step, and facts about the first run that needed the step."""
    known: dict[str, Any] = {"root": root.store.url, "step": view.name}
    if record is None:
        return known
    asked = record.asked
    known |= {"recipe": asked.recipe, "command": shlex.join(asked.command), "dgflow": record.version}
    known |= {"commit": asked.commit} if asked.commit else {}
    return known | {f"option.{name}": _plain(value) for name, value in asked.options.items()}


def _settings(view: StepView) -> dict[str, Any]:
    """The fields of a step as plain values. Fields of nested specs are named by their path."""
    return dict(_flat(view.settings))


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and not is_reference(value):
        for name, inner in value.items():
            yield from _flat(inner, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for number, inner in enumerate(value):
            yield from _flat(inner, f"{path}.{number}")
    else:
        yield path, _plain(value)


def _plain(value: Any) -> Any:
    """Convert a value to a number, string or boolean. A reference becomes a string such as
    `generate-a387775b0a0d[0:8000]`."""
    if isinstance(value, Mapping) and is_reference(value):
        name = f"{value['step']}-{value['fingerprint'][:12]}"
        if "start" in value:
            return f"{name}[{value['start']}:{value['stop']}]"
        return f"{name} {value['which']}" if "which" in value else name
    return value if isinstance(value, str | int | float | bool) else json.dumps(value, default=str)


def _curves(receipts: Mapping[int, Receipt]) -> Iterator[Value]:
    for epoch, receipt in receipts.items():
        for name, value in _measured(receipt):
            yield Value(name, receipt.created, epoch, value=value)


def _measured(receipt: Receipt) -> Iterator[tuple[str, float]]:
    for name, value in receipt.metrics.items():
        if isinstance(value, int | float):
            yield f"{'work' if name in ABOUT_THE_RUN else 'training'}/{name}", float(value)
    yield "work/seconds", receipt.seconds
    for level in receipt.metrics.get("by_sigma", ()):
        low, high = level["sigma"]
        for name in BY_SIGMA:
            if name in level:
                yield f"training_by_sigma_{name}/{low:.3g} to {high:.3g}", float(level[name])


def _spec(view: StepView) -> Any:
    """The spec of a step. None if it cannot be rebuilt here, as for a class outside dgflow."""
    try:
        return view.spec
    except ValueError:
        return None


def _picture(
    view: StepView, start: int, stop: int, receipts: Mapping[int, Receipt] | None = None
) -> Picture | None:
    """The images of a range of samples. None if the samples are not images, or while one is missing."""
    spec = _spec(view)
    if not isinstance(spec, SampleStep) or isinstance(spec, Features) or spec.gives_latents:
        return None
    stop = min(stop, spec.length or stop)
    there = [each for each in (receipts or view.receipts).values() if (each.stop or 0) > start]
    there = [each for each in there if each.start is not None and each.start < stop]
    if sum(min(each.stop or 0, stop) - max(each.start or 0, start) for each in there) != stop - start:
        return None
    samples = view.samples
    return Picture(
        "samples",
        max(each.created for each in there),
        caption=f"{view.title}: indices {start} to {stop - 1}",
        png=lambda: grid_file(samples.read(slice(start, stop), ["image"]).images),
    )


def _result(
    root: OpenRoot, view: StepView, name: str, about: Mapping[str, Any], receipts: Mapping[int, Receipt]
) -> Iterator[TrackedRun]:
    """Yield the run of a table, then the run of each arm."""
    outcome, receipt = Outcome(view.spec, view.content), _first(receipts)
    if not outcome.tables:
        return
    items: list[Item] = [_configuration(about, receipts)]
    for number, table in enumerate(outcome.tables):
        same = sum(each.title == table.title for each in outcome.tables[:number])
        title = f"{table.title or 'arms'}{f' {same + 1}' if same else ''}"
        items.append(Sheet(f"tables/{title}", receipt.created, table=table))
    floor = (outcome.plain or {}).get("floor") if isinstance(outcome.plain, dict) else None
    for key in outcome.shown:
        if isinstance(floor, dict) and key in floor:
            items.append(Value(f"result/{key}", receipt.created, value=floor[key]))
    yield _run(root, view, name, items)
    for arm, values in outcome.arms.items():
        yield _arm(root, view, outcome, f"{name}/{quote(arm, safe=' ,=+()')}", arm, values, about, receipt)


def _arm(
    root: OpenRoot,
    view: StepView,
    outcome: Outcome,
    name: str,
    arm: str,
    values: Mapping[str, Any],
    about: Mapping[str, Any],
    receipt: Receipt,
) -> TrackedRun:
    items: list[Item] = []
    configuration = {**about, "arm": arm}
    part = next(iter(getattr(outcome.step, "arms", {}).get(arm, ())), None)
    if isinstance(part, Slice):
        configuration |= _settings(root.step(part.origin.step.name))
        if picture := _picture(root.step(part.step.name), part.start, min(part.stop, part.start + ROWS)):
            items.append(replace(picture, caption=f"{arm}: {picture.caption}", time=receipt.created))
    items.append(Configuration("configuration", receipt.created, values=configuration))
    for key in outcome.shown:
        if key in values:
            items.append(Value(f"result/{key}", receipt.created, value=values[key]["mean"]))
            if values[key]["spread"] is not None:
                items.append(Value(f"result/{key}_spread", receipt.created, value=values[key]["spread"]))
    run = _run(root, view, name, items, parent=name.rpartition("/")[0])
    return replace(run, title=f"{view.title}: {arm}")

"""Write to TensorBoard: event files below a folder, one subfolder per run, without TensorFlow or PyTorch.

Existing items are read from the event files. Each process writes its own files, and each item is one record.
TensorBoard skips a record that a killed process left truncated.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dgflow.store.identity import sha256_hex
from dgflow.track.content import PROVENANCE, Configuration, Item, Key, Picture, Sheet, TrackedRun, Value

_MARK = "dgflow.json"  # file in the folder of a group that names the group's root


class TensorBoard:
    """A `Tracker` of event files in `logdir`."""

    errors = (OSError,)

    def __init__(self, logdir: str | os.PathLike[str]) -> None:
        self.logdir = Path(logdir)
        self._files: dict[str, Path] = {}  # files of this process, by run id

    @property
    def where(self) -> str:
        return str(self.logdir)

    @property
    def look(self) -> str:
        return f"tensorboard --logdir {self.logdir}"

    def known(self, run: TrackedRun) -> set[Key]:
        from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

        events = (
            Event.FromString(record)
            for path in sorted(self._folder(run).glob("events.out.tfevents.*"))
            for record in RawEventFileLoader(str(path)).Load()
        )
        return {(value.tag, event.step) for event in events for value in event.summary.value}

    def write(self, run: TrackedRun, items: Sequence[Item]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.summary.writer.record_writer import RecordWriter

        if run.id not in self._files:
            self._files[run.id] = self._folder(run, make=True) / (
                f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}."
                f"{secrets.token_hex(4)}"
            )
            with self._files[run.id].open("xb") as file:
                RecordWriter(file).write(Event(file_version="brain.Event:2").SerializeToString())
        with self._files[run.id].open("ab") as file:
            writer = RecordWriter(file)
            for item in items:
                event = Event(wall_time=item.time, step=item.step, summary=_summary(run, item))
                writer.write(event.SerializeToString())

    def close(self) -> None:
        """Do nothing: no connection is open."""

    def _folder(self, run: TrackedRun, make: bool = False) -> Path:
        """The folder of a run: GROUP/LABEL, or GROUP-xxxxxx/LABEL if another root has the same last path
        component."""
        for group in (run.group, f"{run.group}-{sha256_hex(run.root.encode())[:6]}"):
            folder, mark = self.logdir / group, self.logdir / group / _MARK
            if make and not mark.exists():
                folder.mkdir(parents=True, exist_ok=True)
                scratch = folder / f".{_MARK}.{secrets.token_hex(4)}"
                scratch.write_text(json.dumps({"root": run.root}))
                scratch.replace(mark)
            if not mark.exists() or json.loads(mark.read_text())["root"] == run.root:
                break
        if run.parent:  # below the folder of its table
            own = folder / run.name
        else:
            there = (path for path in folder.glob(f"{run.name}*") if run.is_label(path.name))
            own = next(there, folder / run.label)
        if make:
            own.mkdir(parents=True, exist_ok=True)
        return own


def _summary(run: TrackedRun, item: Item) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from tensorboard.plugins.text.summary_v2 import text_pb

    match item:
        case Value():
            return Summary(value=[Summary.Value(tag=item.name, simple_value=item.value)])
        case Sheet():
            return text_pb(item.name, item.markdown)
        case Configuration():
            summary = text_pb(item.name, item.markdown)
            if any(isinstance(each, Value) for each in run.items):  # settings for comparing runs
                settings = {name: value for name, value in item.values.items() if name not in PROVENANCE}
                summary.MergeFrom(hparams_pb(settings, trial_id=run.name, start_time_secs=item.time))
            return summary
        case Picture():
            data = item.png()
            width, height = (int.from_bytes(data[at : at + 4]) for at in (16, 20))
            image = Summary.Image(encoded_image_string=data, width=width, height=height, colorspace=4)
            return Summary(value=[Summary.Value(tag=item.name, image=image)])
        case _:
            raise TypeError(item)

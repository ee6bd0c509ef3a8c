"""Write to Weights & Biases: one project per root, and one W&B run per tracked run, whose id is derived from
root and name.

Online, an existing run is continued, and its next step number shows what it already holds. An offline run
cannot be read back, so each process leaves a folder for `wandb sync` that holds the whole run. Synchronising
several such folders repeats the run and adds nothing twice.

When wandb has finished a run, a note beside these folders records its items and saves further queries. Notes
are optional. They are separate per server, entity and project, and for offline runs.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dgflow.track.content import Item, Key, Picture, Sheet, TrackedRun, Value


class Wandb:
    """A `Tracker`, set up by wandb's own variables: WANDB_API_KEY or `wandb login`, WANDB_MODE,
    WANDB_PROJECT, WANDB_ENTITY, WANDB_DIR."""

    def __init__(self) -> None:
        import wandb

        self._wandb = wandb
        self.errors: tuple[type[Exception], ...] = (wandb.Error,)
        settings = wandb.setup(wandb.Settings(silent=True)).settings
        if settings.mode == "disabled":
            raise ValueError("expected WANDB_MODE online or offline, found disabled; run `wandb enabled`")
        self._offline = settings.mode in ("offline", "dryrun")
        self._wandb_dir = Path(settings.wandb_dir)
        self._server, self._entity = str(settings.base_url), settings.entity
        self._runs: dict[str, tuple[Any, Path]] = {}  # wandb's run and its note, by id
        self._written: dict[str, set[Key]] = {}

    @property
    def where(self) -> str:
        return str(self._wandb_dir) if self._offline else "Weights & Biases"

    @property
    def look(self) -> str:
        if self._offline:
            return f"wandb sync {self._wandb_dir}/offline-run-*"
        return os.environ.get("WANDB_BASE_URL", "https://wandb.ai")

    def known(self, run: TrackedRun) -> set[Key]:
        note = self._note(run)
        return {(name, step) for name, step in json.loads(note.read_text())} if note.exists() else set()

    def write(self, run: TrackedRun, items: Sequence[Item]) -> None:
        if run.id not in self._runs:
            self._runs[run.id] = self._begin(run), self._note(run)
            if self._offline:
                items = run.items
        own, _ = self._runs[run.id]
        self._written.setdefault(run.id, self.known(run)).update(item.key for item in items)
        for step, together in groupby(items, key=lambda item: item.step):
            if step >= own.step:  # earlier steps are already in a continued run
                logged = {item.name: _logged(item) for item in together}
                own.log({name: value for name, value in logged.items() if value is not None}, step=step)
        if not any(item.step for item in run.items):  # without epochs, the run is complete
            self._finish(run.id)

    def close(self) -> None:
        """Finish the runs, and write the notes of their items."""
        for number in list(self._runs):
            self._finish(number)

    def _finish(self, run_id: str) -> None:
        own, note = self._runs.pop(run_id)
        own.finish()
        note.parent.mkdir(parents=True, exist_ok=True)
        scratch = note.with_suffix(".new")
        scratch.write_text(json.dumps(sorted(self._written[run_id])))
        scratch.replace(note)

    def _begin(self, run: TrackedRun) -> Any:
        settings = self._wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
        )
        return self._wandb.init(
            project=_project(run),
            id=run.id,
            name=run.label,
            group=run.group,
            job_type=run.kind,
            notes=run.title,
            config=dict(run.configuration),
            resume="allow",
            reinit="create_new",
            settings=settings,
        )

    def _note(self, run: TrackedRun) -> Path:
        """The path of the note of the items written to the run's destination."""
        place = "offline" if self._offline else self._server
        parts = (place, self._entity or "default", _project(run))
        return self._wandb_dir.joinpath("dgflow", *(quote(part, safe="") for part in parts), f"{run.id}.json")


def _project(run: TrackedRun) -> str:
    return os.environ.get("WANDB_PROJECT") or run.group


def _logged(item: Item) -> Any:
    """The value that wandb logs for an item; None for a configuration, which belongs to the run."""
    import wandb
    from PIL import Image

    match item:
        case Value():
            return item.value
        case Sheet():
            columns: list[Any] = [heading or "arm" for heading in item.table.heading]
            return wandb.Table(columns=columns, data=[list(row) for row in item.table.rows])
        case Picture():
            return wandb.Image(Image.open(io.BytesIO(item.png()), formats=("PNG",)), caption=item.caption)
        case _:
            return None

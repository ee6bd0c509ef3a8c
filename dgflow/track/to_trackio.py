"""Write to Trackio's local database: one project per root, and one Trackio run per tracked run."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from dgflow.track.content import Configuration, Item, Key, Picture, Sheet, TrackedRun, Value


class Trackio:
    """A `Tracker` in Trackio's folder: TRACKIO_DIR, or else Trackio's default."""

    errors: tuple[type[Exception], ...] = (OSError,)

    def __init__(self) -> None:
        import trackio  # pyright: ignore[reportMissingImports] (not among the packages of the tests)

        self._trackio: Any = trackio
        self._project = ""

    @property
    def where(self) -> str:
        return str(self._trackio.TRACKIO_DIR)

    @property
    def look(self) -> str:
        return f"trackio show --project {self._project}" if self._project else "trackio show"

    def known(self, run: TrackedRun) -> set[Key]:
        self._project = run.group
        points = self._trackio.SQLiteStorage.get_logs(run.group, self._name(run))
        known = {(name, point["step"]) for point in points for name in point}
        if points:  # the configuration is stored together with them
            known |= {item.key for item in run.items if isinstance(item, Configuration)}
        return known

    def write(self, run: TrackedRun, items: Sequence[Item]) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            own = self._trackio.init(
                run.group,
                self._name(run),
                group=run.kind,
                config=dict(run.configuration),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
            for step, together in groupby(items, key=lambda item: item.step):
                logged = [item for item in together if not isinstance(item, Configuration)]
                if logged:
                    own.log({item.name: self._logged(item) for item in logged}, step=step)
            self._trackio.finish()

    def close(self) -> None:
        """Do nothing: no connection is open."""

    def _name(self, run: TrackedRun) -> str:
        """The run's label, followed by the beginning of its id if another root already uses the label."""
        storage = self._trackio.SQLiteStorage
        names = [str(record["name"]) for record in storage.get_run_records(run.group)]
        for name in filter(run.is_label, names):
            if storage.get_run_config(run.group, name)["root"] == run.root:
                return name
        return run.label if run.label not in names else f"{run.label} ({run.id[:6]})"

    def _logged(self, item: Item) -> Any:
        from PIL import Image

        match item:
            case Value():
                return item.value
            case Sheet():
                return self._trackio.Markdown(item.markdown)
            case Picture():
                picture = Image.open(io.BytesIO(item.png()), formats=("PNG",))
                return self._trackio.Image(picture, caption=item.caption)
            case _:
                raise TypeError(item)

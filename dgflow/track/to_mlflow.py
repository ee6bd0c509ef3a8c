"""Write to MLflow: one experiment per root, and one MLflow run per tracked run, found by a tag. Arms are
child runs of their table's run.

Logging is idempotent in MLflow for metric points of equal time and step, and for parameters and tags. A
picture or table is an artifact, and a tag set after its upload marks it as complete.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dgflow.track.content import Configuration, Item, Key, Picture, Sheet, TrackedRun, Value, run_id

_TAG = "dgflow.run"  # tag with the run's id
_DONE = "dgflow.artifact."  # prefix of tags, followed by the artifact's name
_BATCH = 100  # parameters or metrics per request; MLflow's limits are 100 parameters and 1,000 metrics
_LONGEST = 6000  # maximum characters of a parameter


class MLflow:
    """A `Tracker` at a tracking URI: a server, or a database such as sqlite:///mlflow.db."""

    def __init__(self, uri: str | None = None) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
        self.errors: tuple[type[Exception], ...] = (MlflowException,)
        self._client = MlflowClient(tracking_uri=self.uri)
        self._experiments: dict[str, str] = {}
        self._open: dict[str, float] = {}  # MLflow id -> time of the last item, for unfinished runs

    @property
    def where(self) -> str:
        """The tracking URI without credentials."""
        return re.sub(r"//[^/]*@", "//", self.uri)

    @property
    def look(self) -> str:
        return self.where if self.uri.startswith("http") else f"mlflow ui --backend-store-uri {self.where}"

    def known(self, run: TrackedRun) -> set[Key]:
        if (found := self._find(run.root, run.name, run.group)) is None:
            return set()
        if found.info.status == "RUNNING":  # a process was killed during the run
            self._open[found.info.run_id] = max(item.time for item in run.items)
        known = {
            (name, point.step)
            for name in found.data.metrics
            for point in self._client.get_metric_history(found.info.run_id, name)
        }
        known |= {(tag.removeprefix(_DONE), 0) for tag in found.data.tags if tag.startswith(_DONE)}
        if run.configuration.keys() <= found.data.params.keys():
            known |= {item.key for item in run.items if isinstance(item, Configuration)}
        return known

    def write(self, run: TrackedRun, items: Sequence[Item]) -> None:
        from mlflow.entities import Metric, Param

        own = self._run(run)
        self._open[own] = max(item.time for item in run.items)
        points = [
            Metric(item.name, item.value, _milliseconds(item), item.step)
            for item in items
            if isinstance(item, Value)
        ]
        for start in range(0, len(points), _BATCH):
            self._client.log_batch(own, metrics=points[start : start + _BATCH])
        for item in items:
            if isinstance(item, Configuration):
                texts = {name: str(value)[:_LONGEST] for name, value in item.values.items()}
                parameters = [Param(name, text) for name, text in texts.items()]
                for start in range(0, len(parameters), _BATCH):
                    self._client.log_batch(own, params=parameters[start : start + _BATCH])
            elif isinstance(item, Sheet):
                self._client.log_text(own, item.markdown, f"{item.name}.md")
                self._client.set_tag(own, f"{_DONE}{item.name}", "")
            elif isinstance(item, Picture):
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / f"{item.name}.png"
                    path.write_bytes(item.png())
                    self._client.log_artifact(own, str(path))
                self._client.set_tag(own, f"{_DONE}{item.name}", item.caption)

    def close(self) -> None:
        """Mark the runs that were written as finished."""
        for own, last in self._open.items():
            self._client.set_terminated(own, end_time=round(1000 * last))
        self._open.clear()

    def _experiment(self, group: str) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or group
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            self._experiments[name] = (
                self._client.create_experiment(name) if found is None else found.experiment_id
            )
        return self._experiments[name]

    def _find(self, root: str, name: str, group: str) -> Any:
        query = f"tags.`{_TAG}` = '{run_id(root, name)}'"
        return next(iter(self._client.search_runs([self._experiment(group)], query, max_results=1)), None)

    def _run(self, run: TrackedRun) -> str:
        """MLflow's id of the run, which is created if it is missing."""
        if (found := self._find(run.root, run.name, run.group)) is not None:
            return found.info.run_id
        tags = {
            _TAG: run.id,
            "dgflow.root": run.root,
            "dgflow.step": run.name.partition("/")[0],
            "dgflow.kind": run.kind,
            "mlflow.note.content": run.title,
        }
        if run.parent and (parent := self._find(run.root, run.parent, run.group)) is not None:
            tags["mlflow.parentRunId"] = parent.info.run_id
        began = min(_milliseconds(item) for item in run.items)
        made = self._client.create_run(
            self._experiment(run.group), start_time=began, tags=tags, run_name=run.label
        )
        return made.info.run_id


def _milliseconds(item: Item) -> int:
    return round(1000 * item.time)

"""Views of the steps of a root: what each step is, and its results."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dgflow.client.samples import Samples, SampleStream
from dgflow.engine.recorded import Recorded, RecordedRoot
from dgflow.report.charts import training_charts
from dgflow.report.outcome import Outcome, is_for_people
from dgflow.specs.figures import Figure, Table
from dgflow.specs.step import ResultStep, Step
from dgflow.store.receipts import Receipt

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot
    from pandas import DataFrame


@dataclass(frozen=True, repr=False)
class StepView:
    """A step of a root. Data is read on access, so it includes results that a run has committed meanwhile.

    If the step was made from several sets of inputs, for example because a discriminator was retrained, the
    view shows the latest results.
    """

    records: RecordedRoot
    recorded: Recorded

    @property
    def name(self) -> str:
        """The step's folder in the root."""
        return self.recorded.name

    @property
    def kind(self) -> str:
        """The kind, such as `generate` or `train-discriminator`."""
        return self.recorded.kind

    @property
    def settings(self) -> Mapping[str, Any]:
        """The fields that identify the step, as plain data; steps that it reads appear as fingerprints."""
        fields: Any = self.recorded.document["fields"]
        return fields

    @cached_property
    def spec(self) -> Any:
        """The live step, as built by its recipe. Raises ValueError if it cannot be rebuilt from its
        record.
        """
        return self.records.step(self.name)

    @property
    def title(self) -> str:
        """The title for display, which is not unique."""
        step = self._live
        return self.kind if step is None else step.title

    @property
    def receipts(self) -> dict[int, Receipt]:
        """The receipts of the committed parts, by number: shards from 0, epochs from 1, or one result as
        0."""
        return self.records.receipts(self.recorded.step_store, self.folder)

    @property
    def folder(self) -> str:
        """The kind of the parts: "shards", "epochs" or "results"."""
        step = self._live
        if step is not None:
            return step.folder
        committed = self.recorded.step_store.committed
        return next((each for each in ("shards", "epochs", "results") if committed(each)), "results")

    @property
    def samples(self) -> SampleStream:
        """The samples of the step: `step.samples[100:116]`. Raises ValueError for a step without samples."""
        if self.folder != "shards":
            raise self._unlike("samples", "Generate, ImportImages, Decode, Features, ...")
        return SampleStream(self.recorded.step_store, lambda: self.receipts)

    @property
    def metrics(self) -> dict[int, dict[str, Any]]:
        """The measurements of a training's committed epochs, by epoch. Raises ValueError for other steps."""
        if self.folder != "epochs":
            raise self._unlike("epochs", "TrainScore, TrainClassifier or TrainDiscriminator")
        return {number: receipt.metrics for number, receipt in self.receipts.items()}

    @property
    def result(self) -> Any:
        """The content of the step's file: JSON as plain data, `.npz` as arrays by name, otherwise bytes.

        Raises:
            ValueError: the step makes samples or trains, or its file does not exist yet.
        """
        content, key = self.content, self._result_receipt.key
        if key.endswith(".npz"):
            with np.load(io.BytesIO(content)) as arrays:
                return dict(arrays)
        return json.loads(content) if key.endswith(".json") else content

    @property
    def content(self) -> bytes:
        """The bytes of the step's file, verified by its receipt. Raises as `result`."""
        return self.recorded.step_store.read(self._result_receipt)

    def frame(self, *, per_seed: bool = False) -> DataFrame:
        """The step's results as a pandas DataFrame: one row per epoch of a training, with the measurements;
        one row per arm of a comparison, with mean and `_spread` over seeds of each quantity; or one row per
        sample, with scalar columns such as `label` and `log_ratio`.

        Args:
            per_seed: for a comparison, one row per arm and seed.

        Raises:
            ValueError: there is nothing to tabulate, or pandas is missing (`pip install "dgflow[python]"`).
        """
        from dgflow.client.frames import frame_of_arms, frame_of_epochs, frame_of_table

        if self.folder == "epochs":
            return frame_of_epochs(self.metrics)
        if self.folder == "shards":
            return self.samples.frame()
        outcome = self._outcome
        if outcome is not None and outcome.arms:
            return frame_of_arms(outcome, per_seed=per_seed)
        if outcome is not None and outcome.tables:
            return frame_of_table(outcome.tables[0])
        raise self._unlike("a table", "Evaluate, a Compare step, a sweep, a training or samples")

    @property
    def figures(self) -> Sequence[Figure]:
        """The charts and tables of the step as data (`dgflow.specs.figures`), as in the report: those of a
        result, or the curves of a training; () if there are none.
        """
        if self.folder == "epochs":
            metrics = self.metrics
            used = self.records.used_epochs(self.name)
            chosen = used[0] if len(used) == 1 else max(metrics, default=None)
            if chosen not in metrics:
                return ()
            return training_charts(self.spec, metrics, chosen, used=len(used) == 1).all
        outcome = self._outcome
        if outcome is None:
            return ()
        return [*([] if outcome.table is None else [outcome.table]), *outcome.figures]

    def plot(self, title: str | None = None) -> Plot:
        """Draw the charts of the step on one Matplotlib figure, or only the chart or table whose title begins
        with `title`.

        Raises:
            ValueError: the step has no such figure, or Matplotlib is missing (`pip install
                "dgflow[python]"`).
        """
        from dgflow.client.plots import plot

        figures = self.figures
        if title is None:
            chosen = [each for each in figures if not isinstance(each, Table)] or figures
        else:
            chosen = [each for each in figures if each.title.lower().startswith(title.lower())]
        if not chosen:
            titles = ", ".join(repr(each.title) for each in figures) or "none"
            wanted = "a figure" if title is None else f"a figure whose title begins with {title!r}"
            raise ValueError(f"expected {wanted} of {self.name}, found: {titles}")
        return plot(chosen)

    def again(self, start: int = 0, stop: int | None = None, **placement: Any) -> Samples:
        """Recompute samples of the step in this process, without storing them. Shards and batches are those
        of the run, so on the same kind of machine the samples equal the committed ones bit for bit.

        Args:
            start: the first sample.
            stop: the end of the range; by default the end of the first sample's shard.
            placement: fields outside the identity, such as `batch_size`, if the run did not use the defaults.

        Raises:
            ValueError: the samples are not committed, or the step cannot be rebuilt from its record.
        """
        step = self.spec.model_copy(update=placement)
        shards = [
            shard
            for shard in self.samples.shards
            if (shard.stop or 0) > start and (stop is None or (shard.start or 0) < stop)
        ]
        shards = shards[:1] if stop is None else shards
        stop = (shards[0].stop if shards else 0) if stop is None else stop
        first, parts = self.samples.read(slice(start, stop), ["index"]), []
        for shard in shards:
            as_made = step.as_made(shard.inputs)
            make = as_made.shard_builder(self.records.bound(as_made, shard.inputs))
            parts.append(make(shard.start, shard.stop))
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        chosen = np.isin(columns["index"], first.index)
        return Samples({name: values[chosen] for name, values in columns.items()})

    @property
    def _outcome(self) -> Outcome | None:
        """The interpreted file of a result step; None for another kind of step."""
        step = self.spec
        if not isinstance(step, ResultStep) or not is_for_people(step):
            return None
        return Outcome(step, self.content)

    @property
    def _result_receipt(self) -> Receipt:
        if self.folder != "results":
            raise self._unlike("a file", "Evaluate, Measure, Statistics, ...")
        receipts = self.receipts
        if not receipts:
            raise ValueError(
                f"expected the file of {self.name} in {self.records.store.url}, found none yet; run the "
                "recipe"
            )
        return receipts[0]

    @property
    def _live(self) -> Step | None:
        try:
            return self.spec
        except ValueError:
            return None

    def _unlike(self, expected: str, kinds: str) -> ValueError:
        return ValueError(f"expected a step that makes {expected} ({kinds}), found {self.name}")

    def __repr__(self) -> str:
        count = len(self.receipts)
        unit = self.folder.removesuffix("s") if count == 1 else self.folder
        return f"<{self.name}: {self.title}, {count} {unit}>"

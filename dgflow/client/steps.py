"""The steps of a root as people look at them: what each is, what it has made, and where that lies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dgflow.client.samples import SampleStream
from dgflow.engine.recorded import Recorded, RecordedRoot
from dgflow.specs.figures import Figure
from dgflow.specs.step import ResultStep, SampleStep, Step
from dgflow.store.receipts import Receipt


@dataclass(frozen=True, repr=False)
class StepView:
    """A step of a root. Nothing is read before it is asked for; what a run commits meanwhile is seen.

    Where a step was made from several sets of inputs, as after a discriminator was trained again, the views
    are of what was made last.
    """

    records: RecordedRoot
    recorded: Recorded

    @property
    def name(self) -> str:
        """The folder in the root."""
        return self.recorded.name

    @property
    def kind(self) -> str:
        """Such as `generate` or `train-discriminator`."""
        return self.recorded.kind

    @property
    def settings(self) -> Mapping[str, Any]:
        """The fields that identify the step, as plain data; steps that it reads by their fingerprints."""
        fields: Any = self.recorded.document["fields"]
        return fields

    @cached_property
    def spec(self) -> Any:
        """The live step, as its recipe built it. Raises ValueError where it cannot be rebuilt from its
        record."""
        return self.records.step(self.name)

    @property
    def title(self) -> str:
        """For people; not unique."""
        step = self._live
        return self.kind if step is None else step.title

    @property
    def receipts(self) -> dict[int, Receipt]:
        """The receipts of its committed parts, by number: shards from 0, epochs from 1, or one result, 0."""
        return self.records.receipts(self.recorded.step_store, self.folder)

    @property
    def folder(self) -> str:
        """ "shards", "epochs" or "results": the kind of its parts."""
        step = self._live
        if step is not None:
            return step.folder
        committed = self.recorded.step_store.committed
        return next((each for each in ("shards", "epochs", "results") if committed(each)), "results")

    @property
    def samples(self) -> SampleStream:
        """The samples of a step that makes some: `step.samples[100:116]`. Raises ValueError for another
        step."""
        if self.folder != "shards":
            raise self._unlike("samples", "Generate, ImportImages, Decode, Features, ...")
        return SampleStream(self.recorded.step_store, lambda: self.receipts)

    @property
    def metrics(self) -> dict[int, dict[str, Any]]:
        """The measurements of a training's committed epochs, by epoch. Raises ValueError for another step."""
        if self.folder != "epochs":
            raise self._unlike("epochs", "TrainScore, TrainClassifier or TrainDiscriminator")
        return {number: receipt.metrics for number, receipt in self.receipts.items()}

    @property
    def result(self) -> Any:
        """The content of the one file that a step makes: JSON as plain data, else its bytes.

        Raises:
            ValueError: the step makes samples or trains, or its file is not there yet.
        """
        content = self.content
        return json.loads(content) if self._result_receipt.key.endswith(".json") else content

    @property
    def content(self) -> bytes:
        """The bytes of the one file that a step makes, compared with its receipt. Raises as `result`."""
        return self.recorded.step_store.read(self._result_receipt)

    @property
    def figures(self) -> Sequence[Figure]:
        """The figures and tables of a result as data, as the page draws them; () for a step without some."""
        return self.spec.figures(self.content) if isinstance(self.spec, ResultStep) else ()

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


def is_samples(view: StepView) -> bool:
    """True for a step that makes samples."""
    return view.folder == "shards" and (view._live is None or isinstance(view.spec, SampleStep))

"""`dgflow.open`: read the content of a root in Python."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from dgflow.client.networks import DiscriminatorNetwork, Network, ScoreNetwork
from dgflow.client.samples import SampleStream
from dgflow.client.steps import StepView
from dgflow.engine.recorded import RecordedRoot
from dgflow.networks.roles import DiscriminatorSpec, ScoreNetworkSpec
from dgflow.report.summary import summarise, table, worker_seconds
from dgflow.specs.network import NetworkSpec
from dgflow.specs.step import NetworkStep, SampleStep, Weights
from dgflow.steps.kinds import load_kinds
from dgflow.store import runs
from dgflow.store.address import check_format, is_root, step_name
from dgflow.store.objects import ObjectStore
from dgflow.store.open import as_typed, open_store
from dgflow.store.runs import RunRecord
from dgflow.testing.smoke_root import is_smoke_run

if TYPE_CHECKING:
    from pandas import DataFrame

Loaded = TypeVar("Loaded", bound=Network)


def open(root: str | os.PathLike[str]) -> OpenRoot:
    """Open the root of a run, a path or `s3://bucket/prefix`, for reading. Needs neither recipe nor Ray.

    Raises:
        ValueError: there is no root, or it has another format.
        StoreError: the root cannot be reached.
    """
    url = os.fspath(root)
    if not is_root(url):
        raise ValueError(
            f"expected a dgflow root at {url}, found no dgflow.json there; give the --root of a run"
        )
    check_format(store := open_store(url))
    load_kinds()
    return OpenRoot(store)


class OpenRoot:
    """A root: its runs, steps and networks."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    @property
    def url(self) -> str:
        return as_typed(self.store)

    @cached_property
    def records(self) -> RecordedRoot:
        """The recorded steps."""
        return RecordedRoot(self.store)

    def refresh(self) -> OpenRoot:
        """Discard cached records. Needed only after steps were removed; new results of a run are visible
        without it.
        """
        self.__dict__.pop("records", None)
        return self

    @property
    def runs(self) -> list[RunRecord]:
        """The records of runs, oldest first: recipe, options, steps, outcome."""
        return runs.records(self.store)

    def steps(self, kind: str | None = None, *, recipe: str | None = None) -> list[StepView]:
        """List the steps, sorted by name; with `recipe`, the steps of its latest run in execution order.

        Args:
            kind: only those of this kind, such as `generate`.
            recipe: the name of a recipe, such as `digits`.

        Raises:
            ValueError: no run of the recipe is recorded, or there is no step of the kind.
        """
        names = existing = self.records.names
        if recipe is not None:
            names = [step.name for step in self._runs_of(recipe)[-1].steps if step.name in existing]
        names = [name for name in names if kind in (None, name.rpartition("-")[0])]
        if kind is not None and not names:
            kinds = ", ".join(sorted({name.rpartition("-")[0] for name in existing})) or "none"
            raise ValueError(f"expected steps of the kind {kind!r} in {self.url}, found those of: {kinds}")
        return [StepView(self.records, recorded) for recorded in self.records.all_recorded(names)]

    def step(self, name: str) -> StepView:
        """The only step whose name begins with `name`, such as `generate-3fa9`. Raises ValueError, which
        lists the steps, if there is none or more than one.
        """
        return self._view(step_name(self.store, name))

    def samples(self, name: str) -> SampleStream:
        """The samples of a step, same as `step(name).samples`; `[100:116]` reads a part."""
        return self.step(name).samples

    def frame(self) -> DataFrame:
        """One row per step: kind, title, committed parts and samples, bytes, seconds of work, and the recipes
        that need it. Needs pandas.
        """
        from dgflow.client.frames import frame_of_rows

        recipes: dict[str, dict[str, None]] = {}
        for record in self.runs:
            for step in record.steps:
                recipes.setdefault(step.name, {})[record.asked.recipe] = None
        rows = []
        for view in self.steps():
            receipts = view.receipts.values()
            rows.append(
                {
                    "step": view.name,
                    "kind": view.kind,
                    "title": view.title,
                    "parts": len(receipts),
                    "samples": sum((each.stop or 0) - (each.start or 0) for each in receipts),
                    "bytes": sum(each.bytes for each in receipts),
                    "seconds": sum(map(worker_seconds, receipts)),
                    "recipes": ", ".join(recipes.get(view.name, ())),
                }
            )
        return frame_of_rows(rows, "step")

    def table(self, recipe: str | None = None) -> str:
        """The final table of the latest run, or of the latest run of `recipe`, as `report` prints it; if the
        run is incomplete, the list of missing parts.

        Raises:
            ValueError: no run is recorded, or its last step has not started.
        """
        run = self._runs_of(recipe)[-1]
        if run.target not in self.records.names:
            raise ValueError(
                f"expected a run of {run.asked.recipe} that has started its last step, {run.target}, in "
                f"{self.url}, found none; run the recipe until it is done"
            )
        epochs = {step.name: max(step.parts) for step in run.steps if step.folder == "epochs"}
        target = RecordedRoot(self.store, epochs).step(run.target)
        if isinstance(target, SampleStep):
            start, stop = run.steps[-1].parts[0], run.steps[-1].parts[-1] + 1
            target = target[start * target.shard_size : stop * target.shard_size]
        return table(summarise(target, self.store))

    def _runs_of(self, recipe: str | None) -> list[RunRecord]:
        """The runs of a recipe, or all runs. Raises ValueError if there are none."""
        records = [record for record in self.runs if recipe in (None, record.asked.recipe)]
        if not records:
            recipes = ", ".join(dict.fromkeys(record.asked.recipe for record in self.runs))
            wanted = "runs" if recipe is None else f"runs of the recipe {recipe}"
            raise ValueError(
                f"expected {wanted} in {self.url}, found {f'those of: {recipes}' if recipes else 'none'}"
            )
        return records

    def _view(self, name: str) -> StepView:
        return StepView(self.records, self.records.recorded(name))

    def score(self, name: str | None = None, *, epoch: int | str | None = None) -> ScoreNetwork:
        """Load a score network: the only one, or the network of a step; see `network`."""
        return self._network(ScoreNetwork, ScoreNetworkSpec, "score network", name, epoch)

    def discriminator(
        self, name: str | None = None, *, epoch: int | str | None = None
    ) -> DiscriminatorNetwork:
        """Load a discriminator: the only one, or the network of a step; see `network`."""
        return self._network(DiscriminatorNetwork, DiscriminatorSpec, "discriminator", name, epoch)

    def network(self, name: str, *, epoch: int | str | None = None) -> Network:
        """Load the weights of a step, with the network.

        Args:
            name: name of the step, or a prefix of it.
            epoch: for a training, a number, "last", or "best" by held-out loss. By default the epoch from
                which the other steps of the root were made, or the last one if no step was made from any.

        Raises:
            ValueError: there is no such network or epoch, or there are several; the message lists them.
        """
        return self._network(Network, NetworkSpec, "network", name, epoch)

    def _network(
        self,
        loaded: type[Loaded],
        role: type[NetworkSpec],
        words: str,
        name: str | None,
        epoch: int | str | None,
    ) -> Loaded:
        if name is None:
            name = self._only(role, words)
        step = self.step(name).spec
        if not isinstance(step, NetworkStep) or not isinstance(step.architecture, role):
            raise ValueError(f"expected a step of a {words}, found {step.name}")
        if step.folder == "epochs":  # the training may have continued since the step was cached
            step = step.model_copy(update={"epochs": max(self.records.newest(step), default=1)})
        weights = Weights(step=step, which=self._which(step, epoch))
        receipt = self.records.chosen(weights)
        if step.folder == "epochs":
            weights = Weights(step=step, which=f"epoch:{receipt.number}")
        return loaded(self.records, weights, self.records.weights(step, receipt))

    def _which(self, step: NetworkStep, epoch: int | str | None) -> str:
        if step.folder == "results":
            if epoch is not None:
                raise ValueError(
                    f"expected no epoch of {step.name}, which is one file, found {epoch!r}: omit epoch"
                )
            return "file"
        if epoch is None:
            used = self.records.used_epochs(step.name)
            if len(used) > 1:
                raise ValueError(
                    f"expected one epoch of {step.name} that the steps of {self.url} were made from, found "
                    f"{used}; give epoch="
                )
            return f"epoch:{used[0]}" if used else "last"
        if epoch in ("last", "best"):
            return {"last": "last", "best": "best:held_out_loss"}[epoch]
        if not str(epoch).isdecimal():
            raise ValueError(f'expected as epoch a number, "last" or "best", found {epoch!r}')
        return f"epoch:{epoch}"

    def _only(self, role: type[NetworkSpec], words: str) -> str:
        """The name of the only step that has committed weights of a network with this role."""
        names = [
            view.name for view in self.steps() if isinstance(_architecture(view), role) and view.receipts
        ]
        if not names:
            raise ValueError(f"expected a {words} in {self.url}, found none with committed weights")
        if len(names) > 1:
            listed = ", ".join(names)
            raise ValueError(f"expected one {words} in {self.url}, found {listed}; give the name of one")
        return names[0]

    def __repr__(self) -> str:
        counts: dict[str, int] = {}
        for name in self.records.names:
            kind = name.rpartition("-")[0]
            counts[kind] = counts.get(kind, 0) + 1
        steps = ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "no steps"
        smoke = " of a smoke run, whose results are meaningless" if is_smoke_run(self.store) else ""
        return f"<dgflow root {self.url}{smoke}: {steps}>"


def _architecture(view: StepView) -> NetworkSpec | None:
    try:
        step = view.spec
    except ValueError:
        return None
    return step.architecture if isinstance(step, NetworkStep) else None

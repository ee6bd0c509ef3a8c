"""Run a sweep: build a recipe for each combination, complete the joint graph, and show the table."""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from dgflow.cli.asked import asked, with_commit
from dgflow.cli.building import RecipeError, built
from dgflow.cli.guard import print_json
from dgflow.cli.opening import Use, at_toy_size, tell_others, warn
from dgflow.cli.sweep_selection import Selection
from dgflow.engine.execute import execute, result_of
from dgflow.engine.networks import check_sizes
from dgflow.engine.plan import plan
from dgflow.files.outputs import write_output
from dgflow.report import page, sweep_text
from dgflow.report.pages import page_lines, write_pages
from dgflow.report.plan_text import plan_json, plan_table
from dgflow.runtime.placement import Placement
from dgflow.runtime.progress import Progress
from dgflow.runtime.terminal import tell
from dgflow.specs.graph import graph
from dgflow.specs.step import Result, ResultStep, Target
from dgflow.steps.sweeping.sweep import REPORT, SELECTION, Combination, SelectedSweep, Sweep, check_compares
from dgflow.steps.sweeping.sweep_table import SweepTable, settings_text, value_text
from dgflow.store.objects import ObjectStore, StoreError
from dgflow.store.runs import Asked

STDOUT = "-"


@dataclass(frozen=True)
class Options:
    """Options of the command itself."""

    plan: bool
    json: bool
    csv: str | None
    placement: Placement
    smoke: bool

    @property
    def use(self) -> Use:
        return "plan" if self.plan else "run"

    @property
    def out(self) -> TextIO:
        """The stream for tables: standard error if the CSV is on standard output."""
        return sys.stderr if self.csv == STDOUT else sys.stdout


@dataclass(frozen=True)
class Recipe:
    """The function of a recipe, with the parameters shared by all combinations."""

    workflow: Callable[..., Target]
    name: str
    fixed: Mapping[str, Any]
    over: Sequence[str]
    zipped: bool

    def sweep(self, settings: Sequence[Mapping[str, Any]], also: Mapping[str, Any]) -> Sweep:
        """Build the sweep over these combinations, with the parameters `also` in each.

        Raises RecipeError for a combination that the recipe refuses, and ValueError for a recipe whose result
        compares no arms.
        """
        results = [(each, self._result(each, also)) for each in settings]
        return Sweep(
            combinations=tuple(Combination(settings=dict(each), result=result) for each, result in results),
            over=tuple(self.over),
            zipped=self.zipped,
        )

    def _result(self, settings: Mapping[str, Any], also: Mapping[str, Any]) -> Result:
        try:
            target = built(self.workflow, {**self.fixed, **settings, **also})
        except RecipeError as error:
            raise RecipeError(f"{error} (with {settings_text(settings)})") from error
        step = target.step if isinstance(target, Result) else target
        if not isinstance(step, ResultStep):
            raise ValueError(
                f"expected a recipe whose result compares arms, such as Evaluate, found one that ends with "
                f"{step.title}"
            )
        check_compares(step)
        return step.result()

    def asked(
        self,
        swept: Mapping[str, Sequence[Any]],
        over: Sequence[str] | None,
        select_on: str | None,
        by: str | None,
    ) -> Asked:
        """Describe the command line, for the record of the run."""
        lists = {
            key: (";" if any(isinstance(value, list | tuple) for value in values) else ",").join(
                map(value_text, values)
            )
            for key, values in swept.items()
        }
        sweep_options = {
            "over": ",".join(over or ()),
            "select_on": select_on,
            "by": by,
            "zip": "" if self.zipped else None,
        }
        sweep_options = {
            key: value for key, value in sweep_options.items() if value or value == "" and key == "zip"
        }
        values = {**self.fixed, **lists}
        in_order = [name for name in inspect.signature(self.workflow).parameters if name in values]
        question = asked(self.workflow, self.name, {name: values[name] for name in in_order})
        return question.model_copy(
            update={
                "recipe": f"{self.name} sweep",
                "options": {**question.options, **sweep_options},
                "changed": (*question.changed, *sweep_options),
            }
        )


def run_sweep(sweep: Sweep, recipe: Recipe, store: ObjectStore, question: Asked, options: Options) -> int:
    """Show the plan of a sweep, or complete it and show its table; returns the exit status."""
    target = _toy(sweep, store, options)
    tell_others(options.use, target, store, question)
    warn(target)
    if options.plan:
        return _show_plan({"": target}, store, options)
    _execute(target, store, recipe, question, options)
    table = target.table(result_of(target, store))
    _put_page(target, store, question, options)
    _show({"": table}, options)
    if options.json:
        print_json(sweep_text.as_json(table) | {"step": target.name})
    return 0


def run_selection(
    grid: Sweep, recipe: Recipe, selection: Selection, store: ObjectStore, question: Asked, options: Options
) -> int:
    """Measure the grid on the seeds of the selection, then the best combination on the other seeds; returns
    the exit status.
    """
    first = _toy(grid, store, options)
    question = question.model_copy(update={"recipe": f"{question.recipe} (selection)"})
    tell_others(options.use, first, store, question)
    warn(first)
    if options.plan and not plan(first, store)[-1].complete:
        status = _show_plan({SELECTION: first}, store, options)
        tell(
            f"then the best of {len(grid.combinations):,} combinations by {selection.by_words} is measured "
            f"on seeds {selection.reported_words}; its plan is shown when the selection is done"
        )
        return status
    if not options.plan:
        _execute(first, store, recipe, question, options)
    by, choice = selection.choice(first.table(result_of(first, store)))
    repeated = [each.settings for each in grid.combinations if choice.items() <= each.settings.items()]
    second = _toy(recipe.sweep(repeated, {"seeds": selection.reported_on}), store, options)
    final = SelectedSweep(
        selection=first.result(),
        report=second.result(),
        chosen_on=tuple(selection.chosen_on),
        reported_on=tuple(selection.reported_on),
        by=by,
        choice=choice,
    )
    if options.plan:
        return _show_plan({SELECTION: first, REPORT: second}, store, options)
    question = question.model_copy(update={"recipe": question.recipe.replace("selection", "report")})
    _execute(final, store, recipe, question, options)
    tables = final.tables(result_of(final, store))
    _put_page(final, store, question, options)
    _show(dict(zip(("selection", "report"), tables, strict=True)), options)
    if options.json:
        stages = zip(("selection", "report"), tables, strict=True)
        chosen = {"choice": choice, "by": by, "step": final.name}
        print_json(chosen | {name: sweep_text.as_json(table) for name, table in stages})
    return 0


def _toy(sweep: Sweep, store: ObjectStore, options: Options) -> Sweep:
    """Return the sweep, or its toy version with --smoke."""
    if not options.smoke:
        return sweep
    target = at_toy_size(options.use, sweep, store, options.out)
    assert isinstance(target, Sweep)
    return target


def _execute(
    target: ResultStep, store: ObjectStore, recipe: Recipe, question: Asked, options: Options
) -> None:
    execute(target, store, options.placement, Progress(with_commit(question, recipe.workflow)))


def _show_plan(targets: Mapping[str, ResultStep], store: ObjectStore, options: Options) -> int:
    """Print the plans by heading; with --json one object, for a selection with the keys `selection` and
    `report`.
    """
    data = []
    for heading, target in targets.items():
        check_sizes(graph(target))
        plans = plan(target, store)
        print(*([f"{heading}:"] if heading else []), plan_table(plans, store), sep="\n", file=options.out)
        data += [plan_json(plans, store)] if options.json else []
    if options.json:
        stages = zip(("selection", "report"), data, strict=False)
        print_json(data[0] if "" in targets else dict(stages))
    return 0


def _show(tables: Mapping[str, SweepTable], options: Options) -> None:
    """Print the tables as text, the result last, and write the CSV."""
    for number, table in enumerate(tables.values()):
        print(*([""] if number else []), sweep_text.as_text(table), sep="\n", file=options.out)
    if options.csv is not None:
        text = sweep_text.as_csv(tables)
        if options.csv == STDOUT:
            sys.stdout.write(text)
        else:
            write_output(options.csv, text.encode())
            print(f"CSV: {options.csv}", file=options.out)


def _put_page(target: ResultStep, store: ObjectStore, question: Asked, options: Options) -> None:
    """Write the page into the root, if the root is writable."""
    try:
        beside = write_pages(store, target.name, page.render(target, store, question).encode())
    except StoreError as error:
        tell(f"the page is not written: {error}")
        return
    print(*page_lines(store, beside), "", sep="\n", file=options.out)

"""The command `sweep` of a recipe: its own parameters over a grid, as one union of graphs and one table."""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TextIO

import typer

from dgflow.cli.asked import asked, with_commit
from dgflow.cli.building import RecipeError, built
from dgflow.cli.command import RecipeCommand
from dgflow.cli.guard import print_json, tell
from dgflow.cli.opening import Use, at_toy_size, root_for, tell_others, warn
from dgflow.cli.options import AsJson, NumGpus, Root, Smoke, TrainWorkers, Workers
from dgflow.cli.parameters import recipe_parameters
from dgflow.cli.root import root_url
from dgflow.cli.sweep_selection import Selection, selection_of
from dgflow.cli.sweep_values import Parameter, averaged, combinations, parameter_of, values_of
from dgflow.engine.execute import execute, result_of
from dgflow.engine.networks import check_sizes
from dgflow.engine.plan import plan
from dgflow.files.outputs import write_output
from dgflow.report import page, sweep_text
from dgflow.report.page_file import PAGE, page_of, put_page
from dgflow.report.plan_text import plan_json, plan_table
from dgflow.runtime.placement import Placement
from dgflow.runtime.progress import Progress
from dgflow.specs.graph import graph
from dgflow.specs.step import Result, ResultStep, Target
from dgflow.steps.sweeping.sweep import REPORT, SELECTION, Combination, SelectedSweep, Sweep, check_compares
from dgflow.steps.sweeping.sweep_table import SweepTable, settings_text, value_text
from dgflow.store.objects import ObjectStore, StoreError
from dgflow.store.runs import Asked

PANEL = "Recipe (one value, or several with commas: 0.5,1,2)"
STDOUT = "-"

Plan = Annotated[
    bool, typer.Option("--plan", help="Show what is there and what would be done. Starts nothing.")
]
Zip = Annotated[
    bool,
    typer.Option(
        "--zip", help="Pair the first values of all lists, then the second ones, in place of a grid."
    ),
]
Over = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PARAM[,PARAM]",
        help="Average over the values of these parameters, as repetitions: ± is their spread. The sampling "
        "seeds of `--seeds` are averaged over anyway.",
        show_default=False,
    ),
]
SelectOn = Annotated[
    str | None,
    typer.Option(
        metavar="SEEDS",
        help="Measure the grid on these sampling seeds, choose the best there, and report the choice on the "
        "recipe's other seeds (--seeds).",
        show_default=False,
    ),
]
By = Annotated[
    str | None,
    typer.Option(
        metavar="METRIC",
        help="The metric that --select-on chooses by. By default the first of the table.",
        show_default=False,
    ),
]
Csv = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Write the rows as CSV; - is standard output, where the table then goes to standard error.",
        show_default=False,
    ),
]
Many = Annotated[bool, typer.Option("--yes", help="Run more than 1,000 combinations.")]

DOC = """Run the recipe with several values of its parameters, and show one table with a row per combination.

A parameter takes one value, or several: --guidance-weight 0.5,1,2 --epochs 4,8 are six combinations (with
--zip lists of one length are paired). What combinations share is made once. The best of each metric is
marked, with all that are within its error.

A list, such as --seeds 101,102,103, is one value; several lists have semicolons between them, as in
--seeds '101,102;103,104', and so may any values: --data 'a,b;c'. Truth values are true and false; none is no
value where a parameter takes that.
"""


@dataclass(frozen=True)
class Options:
    """The options of the command itself."""

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
        """Where tables go: not where the CSV goes."""
        return sys.stderr if self.csv == STDOUT else sys.stdout


def add_sweep(app: typer.Typer, workflow: Callable[..., Target], name: str) -> None:
    """Register the command `sweep` of the recipe `name`. A parameter of the recipe that is named as an option
    of the command cannot be swept."""
    own = list(inspect.signature(_own).parameters.values())
    taken = {parameter.name for parameter in own}
    known = [parameter_of(each) for each in recipe_parameters(workflow) if each.name not in taken]

    def call(**options: Any) -> int:
        texts = {each.name: options.pop(each.name) for each in known}
        return _sweep(workflow, name, known, texts, **options)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [parameter.replace(kind=keyword) for parameter in own]
    parameters += [
        inspect.Parameter(each.name, keyword, default=None, annotation=_option(each)) for each in known
    ]
    vars(call)["__signature__"] = inspect.Signature(parameters)
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    call.__doc__ = DOC
    app.command("sweep", cls=RecipeCommand)(call)


def _own(
    root: Root = None,
    smoke: Smoke = False,
    plan: Plan = False,
    zip: Zip = False,
    over: Over = None,
    select_on: SelectOn = None,
    by: By = None,
    csv: Csv = None,
    json: AsJson = False,
    yes: Many = False,
    workers: Workers = None,
    train_workers: TrainWorkers = None,
    num_gpus: NumGpus = None,
) -> None:
    """The options of the command, for its signature."""


def _option(parameter: Parameter) -> Any:
    default = (
        "" if parameter.default is inspect.Parameter.empty else f" [default: {value_text(parameter.default)}]"
    )
    option = typer.Option(
        parameter.option,
        metavar=parameter.expected.replace(" with commas between them", "").upper().replace(" OR ", "|"),
        help=f"{parameter.help}{default}".strip(),
        rich_help_panel=PANEL,
        show_default=False,
    )
    return Annotated[list[str] | None, option]


def _sweep(
    workflow: Callable[..., Target],
    name: str,
    known: Sequence[Parameter],
    texts: Mapping[str, list[str] | None],
    *,
    root: str | None,
    smoke: bool,
    plan: bool,
    zip: bool,
    over: list[str] | None,
    select_on: str | None,
    by: str | None,
    csv: str | None,
    json: bool,
    yes: bool,
    workers: int | None,
    train_workers: int | None,
    num_gpus: float | None,
) -> int:
    if csv == STDOUT and json:
        raise typer.BadParameter("expected --json or --csv -, found both: each has standard output to itself")
    if by is not None and select_on is None:
        raise typer.BadParameter(
            "expected --select-on SEEDS with --by, found none: nothing is chosen without it"
        )
    given = {each.name: values_of(each, text) for each in known if (text := texts[each.name])}
    swept = {key: values for key, values in given.items() if len(values) > 1}
    fixed = {key: values[0] for key, values in given.items() if len(values) == 1}
    if not swept:
        numeric = (each.option for each in known if {int, float} & set(each.kinds))
        example = next(numeric, next((each.option for each in known), "--PARAM"))
        raise typer.BadParameter(
            f"expected several values of at least one parameter, as in {example} A,B,C, found "
            f"{'one value of each' if given else 'none'}; the recipe has "
            f"{', '.join(each.option for each in known)}"
        )
    averages = averaged(over or (), swept, known)
    settings = combinations(swept, zipped=zip, yes=yes)
    selection = None if select_on is None else selection_of(select_on, by, known, swept, fixed)
    options = Options(plan, json, csv, Placement(workers, train_workers, num_gpus), smoke)
    recipe = Recipe(workflow, name, fixed, averages, zip)
    first = recipe.sweep(settings, {} if selection is None else {"seeds": selection.chosen_on})
    if selection is not None:
        selection.check(first, recipe.sweep(settings, {"seeds": selection.reported_on}))
    store = root_for(options.use, root_url(root, f"runs/{name}", smoke), smoke)
    question = recipe.asked(swept, over, select_on, by)
    if selection is None:
        return _run(first, recipe, store, question, options)
    return _select(first, recipe, selection, store, question, options)


@dataclass(frozen=True)
class Recipe:
    """The function of a recipe, with the parameters that are the same in all combinations."""

    workflow: Callable[..., Target]
    name: str
    fixed: Mapping[str, Any]
    over: Sequence[str]
    zipped: bool

    def sweep(self, settings: Sequence[Mapping[str, Any]], also: Mapping[str, Any]) -> Sweep:
        """The sweep over these combinations, with the parameters `also` in each.

        Raises RecipeError for a combination that the recipe refuses, and for a recipe whose result compares
        no arms.
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
        """The command line, for the record of the run."""
        lists = {
            key: (";" if any(isinstance(value, list | tuple) for value in values) else ",").join(
                map(value_text, values)
            )
            for key, values in swept.items()
        }
        own = {
            "over": ",".join(over or ()),
            "select_on": select_on,
            "by": by,
            "zip": "" if self.zipped else None,
        }
        own = {key: value for key, value in own.items() if value or value == "" and key == "zip"}
        values = {**self.fixed, **lists}
        in_order = [name for name in inspect.signature(self.workflow).parameters if name in values]
        question = asked(self.workflow, self.name, {name: values[name] for name in in_order})
        return question.model_copy(
            update={
                "recipe": f"{self.name} sweep",
                "options": {**question.options, **own},
                "changed": (*question.changed, *own),
            }
        )


def _run(sweep: Sweep, recipe: Recipe, store: ObjectStore, question: Asked, options: Options) -> int:
    """Plan a sweep, or complete and show it."""
    target = _toy(sweep, store, options)
    tell_others(options.use, target, store, question)
    warn(target)
    if options.plan:
        return _show_plan({"": target}, store, options)
    _execute(target, store, recipe, question, options)
    table = target.table(result_of(target, store))
    _show({"": table}, options)
    _put_page(target, store, question, options)
    if options.json:
        print_json(sweep_text.as_json(table) | {"step": target.name})
    return 0


def _select(
    grid: Sweep, recipe: Recipe, selection: Selection, store: ObjectStore, question: Asked, options: Options
) -> int:
    """Measure the grid on the seeds of the selection, then the choice on the others."""
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
    _show(dict(zip(("selection", "report"), tables, strict=True)), options)
    _put_page(final, store, question, options)
    if options.json:
        stages = zip(("selection", "report"), tables, strict=True)
        chosen = {"choice": choice, "by": by, "step": final.name}
        print_json(chosen | {name: sweep_text.as_json(table) for name, table in stages})
    return 0


def _toy(sweep: Sweep, store: ObjectStore, options: Options) -> Sweep:
    """The sweep itself, or its smoke run's."""
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
    """The plans by their heading; with --json one object of the only one, or of all by `selection` and
    `report`."""
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
    """The tables as text, that of the result last, and as CSV."""
    for table in tables.values():
        print(sweep_text.as_text(table), end="\n\n", file=options.out)
    if options.csv is not None:
        text = sweep_text.as_csv(tables)
        if options.csv == STDOUT:
            sys.stdout.write(text)
        else:
            write_output(options.csv, text.encode())
            print(f"CSV: {options.csv}", file=options.out)


def _put_page(target: ResultStep, store: ObjectStore, question: Asked, options: Options) -> None:
    """Write the page into the root, where that can be written."""
    try:
        beside = put_page(store, target.name, page.render(target, store, question).encode())
    except StoreError as error:
        tell(f"the page is not written: {error}")
        return
    print(f"report: {store.url}/{PAGE}", file=options.out)
    if beside is not None:
        print(f"the page of {beside} before it: {store.url}/{page_of(beside)}", file=options.out)

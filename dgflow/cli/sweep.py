"""The command `sweep` of a recipe: runs it over a grid of its parameters, as one graph with one table."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from dgflow.cli.command import RecipeCommand
from dgflow.cli.opening import root_for
from dgflow.cli.options import AsJson, CheckpointMinutes, NumGpus, Root, Smoke, TrainWorkers, Workers
from dgflow.cli.parameters import Parameter, parameter_of, recipe_parameters
from dgflow.cli.root import root_url
from dgflow.cli.sweep_run import STDOUT, Options, Recipe, run_selection, run_sweep
from dgflow.cli.sweep_selection import selection_of
from dgflow.cli.sweep_values import averaged, combinations, values_of
from dgflow.runtime.placement import Placement
from dgflow.specs.step import Target
from dgflow.steps.sweeping.sweep_table import value_text

PANEL = "Recipe (one value, or several with commas: 0.5,1,2)"

Plan = Annotated[
    bool, typer.Option("--plan", help="Show what exists and what would be done. Starts nothing.")
]
Zip = Annotated[
    bool,
    typer.Option(
        "--zip", help="Pair the first values of all lists, then the second ones, instead of forming a grid."
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
        help="The metric for --select-on. By default the first of the table.",
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

DOC = """Run the recipe with several values of its parameters.

The table has a row per combination. A parameter takes one value, or several: --guidance-weight 0.5,1,2
--epochs 4,8 are six combinations (with --zip lists of one length are paired). What combinations share is made
once. The best of each metric is marked, with all that are within its error.

A list, such as --seeds 101,102,103, is one value; several lists have semicolons between them, as in
--seeds '101,102;103,104', and so may any values: --data 'a,b;c'. Truth values are true and false; none is no
value where a parameter takes that.
"""


def add_sweep(app: typer.Typer, workflow: Callable[..., Target], name: str) -> None:
    """Register the command `sweep` of the recipe `name`. A parameter with the name of one of the command's
    options cannot be swept.
    """
    command_options = list(inspect.signature(_own).parameters.values())
    taken = {parameter.name for parameter in command_options}
    sweepable = [parameter_of(each) for each in recipe_parameters(workflow) if each.name not in taken]

    def call(**options: Any) -> int:
        texts = {each.name: options.pop(each.name) for each in sweepable}
        return _sweep(workflow, name, sweepable, texts, **options)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [parameter.replace(kind=keyword) for parameter in command_options]
    parameters += [
        inspect.Parameter(each.name, keyword, default=None, annotation=_option(each)) for each in sweepable
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
    checkpoint_minutes: CheckpointMinutes = Placement.checkpoint_minutes,
) -> None:
    """The options of the command itself, as a signature."""


def _option(parameter: Parameter) -> Any:
    default = "" if parameter.is_required else f" [default: {value_text(parameter.default)}]"
    option = typer.Option(
        *parameter.options,
        metavar=parameter.form,
        help=f"{parameter.help}{default}".strip(),
        rich_help_panel=PANEL,
        show_default=False,
    )
    return Annotated[list[str] | None, option]


def _sweep(
    workflow: Callable[..., Target],
    name: str,
    parameters: Sequence[Parameter],
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
    checkpoint_minutes: float,
) -> int:
    if csv == STDOUT and json:
        raise typer.BadParameter("expected --json or --csv -, found both: both write to standard output")
    if by is not None and select_on is None:
        raise typer.BadParameter(
            "expected --select-on SEEDS with --by, found none: without --select-on nothing is chosen"
        )
    given = {each.name: values_of(each, text) for each in parameters if (text := texts[each.name])}
    if lacking := [each.option for each in parameters if each.is_required and each.name not in given]:
        raise typer.BadParameter(f"expected {', '.join(lacking)}, found none: the recipe has no default")
    swept = {key: values for key, values in given.items() if len(values) > 1}
    fixed = {key: values[0] for key, values in given.items() if len(values) == 1}
    if not swept:
        numeric = (each.option for each in parameters if {int, float} & set(each.kinds))
        example = next(numeric, next((each.option for each in parameters), "--PARAM"))
        raise typer.BadParameter(
            f"expected several values of at least one parameter, as in {example} A,B,C, found "
            f"{'one value of each' if given else 'none'}; the recipe has "
            f"{', '.join(each.option for each in parameters)}"
        )
    averages = averaged(over or (), swept, parameters)
    settings = combinations(swept, zipped=zip, yes=yes)
    selection = None if select_on is None else selection_of(select_on, by, parameters, swept, fixed)
    placement = Placement(workers, train_workers, num_gpus, checkpoint_minutes)
    options = Options(plan, json, csv, placement, smoke)
    recipe = Recipe(workflow, name, fixed, averages, zip)
    first = recipe.sweep(settings, {} if selection is None else {"seeds": selection.chosen_on})
    if selection is not None:
        selection.check(first, recipe.sweep(settings, {"seeds": selection.reported_on}))
    store = root_for(options.use, root_url(root, f"runs/{name}", smoke), smoke)
    question = recipe.asked(swept, over, select_on, by)
    if selection is None:
        return run_sweep(first, recipe, store, question, options)
    return run_selection(first, recipe, selection, store, question, options)

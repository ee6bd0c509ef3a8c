"""The command line of a recipe: `main(workflow)` makes the parameters of the recipe's function options of
each command.

Exit status: 0 if everything requested is complete, 1 if not, 2 for an invalid command line.
"""

import inspect
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from dgflow.cli.asked import asked, with_commit
from dgflow.cli.building import built
from dgflow.cli.collect import collect_garbage
from dgflow.cli.command import RecipeCommand, as_written
from dgflow.cli.guard import SETTINGS, print_json, run
from dgflow.cli.live_page import page_while_running
from dgflow.cli.opening import Use, at_toy_size, root_for, tell_others, warn
from dgflow.cli.options import AsJson, CheckpointMinutes, NumGpus, Root, Smoke, TrainWorkers, Workers, Yes
from dgflow.cli.parameters import recipe_option, recipe_parameters
from dgflow.cli.preview import AsPreview, print_previews
from dgflow.cli.root import root_url
from dgflow.cli.sweep import add_sweep
from dgflow.engine.execute import execute
from dgflow.engine.networks import check_built, check_sizes
from dgflow.engine.plan import plan
from dgflow.engine.verify import repair as repaired
from dgflow.engine.verify import verify
from dgflow.estimate.estimates import UTILISATION, counted, piloted
from dgflow.files.outputs import write_output
from dgflow.report import page, runs_text, status_text, summary
from dgflow.report.page_file import PAGE
from dgflow.report.pages import page_lines, write_pages
from dgflow.report.plan_text import plan_json, plan_table
from dgflow.report.seen import of_plan
from dgflow.runtime.placement import Placement
from dgflow.runtime.progress import Progress
from dgflow.runtime.terminal import UNLIMITED, tell, terminal_width, wrapped
from dgflow.specs.graph import graph
from dgflow.specs.step import Target
from dgflow.store.objects import ObjectStore, StoreError
from dgflow.store.open import as_typed
from dgflow.store.runs import Asked


def main(workflow: Callable[..., Target]) -> None:
    """Run the command line of a recipe, and exit. The help begins with the docstring of the recipe's
    module."""
    name = Path(inspect.getfile(workflow)).stem
    arguments = sys.argv[1:]
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("--help", "-h")):
        arguments = ["run", *arguments]  # the default command is run
    run(lambda: application(workflow, name), arguments)


def application(workflow: Callable[..., Target], name: str) -> typer.Typer:
    """Build the Typer application of a recipe; `name` is the default root's name."""
    app = typer.Typer(
        help=as_written(inspect.cleandoc(sys.modules[workflow.__module__].__doc__ or workflow.__doc__ or "")),
        epilog="The default command is run: `python RECIPE.py --root DIR` means `python RECIPE.py run "
        "--root DIR`.",
        **SETTINGS,
    )
    recipe = list(map(recipe_option, recipe_parameters(workflow)))

    def command(body: Callable[..., Any]) -> None:
        """Register the command `body(target, store, asked, ...)`. Its options are the further parameters of
        `body`, and the parameters of the recipe.
        """
        command_options = list(inspect.signature(body).parameters.values())[3:]
        use = _USES.get(body, "look")

        def call(**options: Any) -> int:
            given = {parameter.name: options.pop(parameter.name) for parameter in recipe}
            root, smoke = options.pop("root"), options.pop("smoke")
            root = root_url(root, f"runs/{name}", smoke)
            target, store = built(workflow, given), root_for(use, root, smoke)
            if smoke:
                target = at_toy_size(use, target, store)
            question = asked(workflow, name, given)
            if body is not _gc:
                tell_others(use, target, store, question)
            return body(
                target, store, with_commit(question, workflow) if body is _run else question, **options
            )

        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter("root", keyword, default=None, annotation=Root),
            inspect.Parameter("smoke", keyword, default=False, annotation=Smoke),
            *(parameter.replace(kind=keyword) for parameter in command_options + recipe),
        ]
        vars(call)["__signature__"] = inspect.Signature(parameters)
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        call.__doc__ = body.__doc__
        app.command(body.__name__.strip("_"), cls=RecipeCommand)(call)

    for body in (_run, _plan, _status, _verify, _gc, _report):
        command(body)
    add_sweep(app, workflow, name)
    return app


def _run(
    target: Target,
    store: ObjectStore,
    asked: Asked,
    json: AsJson = False,
    workers: Workers = None,
    train_workers: TrainWorkers = None,
    num_gpus: NumGpus = None,
    checkpoint_minutes: CheckpointMinutes = Placement.checkpoint_minutes,
) -> int:
    """Do the missing work, print the table and write report.html.

    The page is also updated about every half minute during the run. After an interruption, the same command
    continues from there.
    """
    warn(target)
    progress = Progress(asked)
    placement = Placement(workers, train_workers, num_gpus, checkpoint_minutes)
    with page_while_running(partial(_write_early, target, store, asked, progress.say)):
        execute(target, store, placement, progress)
    _report(target, store, asked, json)
    return 0


def _write_early(target: Target, store: ObjectStore, asked: Asked, say: Callable[[str], None]) -> None:
    """Write the page of an active run, and print its path the first time."""
    text = page.render(target, store, asked).encode()
    is_new = store.size(PAGE) is None
    write_pages(store, target.name, text)
    if is_new:
        say(f"page of the run so far: {as_typed(store)}/{PAGE}")


def _plan(
    target: Target,
    store: ObjectStore,
    asked: Asked,
    json: AsJson = False,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Estimate hours on this device, such as h100 or l4.", show_default=False
        ),
    ] = None,
    pilot: Annotated[
        bool,
        typer.Option(
            "--pilot", help="Time one batch of each kind of work on this machine, and estimate hours."
        ),
    ] = False,
    price: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="PRICE", help="Price per device-hour, used for cost estimates.", show_default=False
        ),
    ] = None,
    utilisation: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Assumed share of the device's peak rate. By default 0.35.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Show the parts of each step that exist, and the parts that would be made, with the reason. Runs
    nothing, and needs neither data nor weights.

    --device or --pilot adds parameters and hours, and --price the cost.
    """
    if device is not None and pilot:
        raise typer.BadParameter(
            "expected --device or --pilot, found both: --device counts operations, --pilot times this machine"
        )
    if price is not None and device is None and not pilot:
        raise typer.BadParameter(
            "expected --device NAME or --pilot with --price, found neither: --price is per device-hour"
        )
    if utilisation is not None and device is None:
        raise typer.BadParameter(
            "expected --device NAME with --utilisation, found none: --utilisation is a share of the device's "
            "peak rate"
        )
    warn(target)
    check_sizes(nodes := graph(target))
    plans, costs = plan(target, store), None
    if device is not None or pilot:
        check_built(nodes)
    if device is not None:
        share = UTILISATION if utilisation is None else utilisation
        costs = counted(plans, device, utilisation=share, price=price)
    elif pilot:
        costs = piloted(plans, tell, price=price)
    print(plan_table(plans, store, costs))
    if json:
        print_json(plan_json(plans, store, costs))
    return 0


def _status(
    target: Target,
    store: ObjectStore,
    asked: Asked,
    json: AsJson = False,
    price: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="PRICE",
            help="Price per worker-hour, used for the cost so far.",
            show_default=False,
        ),
    ] = None,
    preview: AsPreview = False,
) -> int:
    """Show progress, speed, cost so far and failures of a run. Reads only the root, so it works on another
    machine.

    Work and cost cover committed parts; start-up, waiting and lost attempts are not included. Exit status 1
    while anything is missing.
    """
    plans, now = plan(target, store), store.now()
    variants = runs_text.variants(store, now)
    goal = runs_text.goal_of(target)
    variant = next((each for each in variants if each.record.goal == goal), None)
    # Another target may share steps with this one, and its driver may be active.
    at_work = [driver for each in variants for driver in each.drivers] if variants else None
    rows = status_text.status_rows(plans, store, now=now, price=price, drivers=at_work)
    for line in runs_text.driver_lines(variant) if variant else ():
        print("\n".join(wrapped(line, hanging="  ", width=terminal_width(UNLIMITED))))
    own_drivers = variant.drivers if variant else ()
    print(status_text.status_table(rows, now, own_drivers))
    if others := runs_text.others_line(variants, asked, goal):
        print(others)
    previews = print_previews([of_plan(each, store) for each in plans]) if preview else []
    if json:
        total = status_text.status_total(rows, own_drivers)
        more = {"run": runs_text.as_json(variant) if variant else None, "previews": previews}
        others = [runs_text.as_json(each) for each in variants if each is not variant]
        print_json({"steps": rows, "total": total} | more | {"others": others})
    return 0 if all(each.complete for each in plans) else 1


def _verify(
    target: Target,
    store: ObjectStore,
    asked: Asked,
    json: AsJson = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Rebuild damaged parts, and verify again.")
    ] = False,
) -> int:
    """Read all data and compare it with its checksums.

    Exit status 1 if anything is damaged or missing.
    """
    if repair:
        checked = repaired(target, store, tell, lambda: execute(target, store, Placement(), Progress(asked)))
    else:
        checked = verify(target, store, tell)
    print(
        f"checked {checked.checked:,} objects ({checked.bytes / 1e6:,.1f} MB): {len(checked.damaged)} "
        f"damaged, {len(checked.missing)} missing"
    )
    for line in checked.damaged + checked.missing:
        print(f"  {line}")
    if json:
        print_json({name: getattr(checked, name) for name in ("checked", "bytes", "damaged", "missing")})
    return 0 if not checked.damaged and not checked.missing else 1


def _gc(target: Target, store: ObjectStore, asked: Asked, json: AsJson = False, yes: Yes = False) -> int:
    """Remove unreferenced objects of the root, as `dgflow gc ROOT`."""
    return collect_garbage(store, yes=yes, json=json)


def _report(
    target: Target,
    store: ObjectStore,
    asked: Asked,
    json: AsJson = False,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Also write the page here, besides the root if it is writable; a path or s3://.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Write report.html from the content of the root. Exit status 1 while the result is missing; the page
    then shows what exists.

    If a root has several variants, each has its own page report-STEP.html, and index.html compares them.
    """
    result = summary.summarise(target, store)
    text = page.render(target, store, asked).encode()
    if output is not None:
        write_output(output, text)
    failure, beside = None, None
    try:
        beside = write_pages(store, target.name, text)
    except StoreError as error:  # a read-only root
        failure = error
    if failure is None:
        print(*page_lines(store, beside, output), sep="\n")
    elif output is not None:
        print(f"report: {output}")
    print(f"\n{summary.table(result)}")
    if json:
        print_json(summary.as_json(result))
    if failure is not None and output is None:
        raise StoreError(f"{failure}. The page can be written elsewhere: report --output FILE") from failure
    if failure is not None:
        tell(f"the page was written only to {output}: {failure}")
    return 0 if result.complete else 1


_USES: dict[Callable[..., int], Use] = {_run: "run", _plan: "plan", _status: "status"}

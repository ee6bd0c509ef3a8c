"""The command line of a recipe: `main(workflow)` turns the function's parameters into options of run, plan,
status, verify, gc and report.

Exit status: 0 when everything that was asked for is there, 1 when it is not, 2 for a command line that cannot
    be understood.
"""

import inspect
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from dgflow.cli.guard import guarded, print_json
from dgflow.cli.options import AsJson, NumGpus, Workers
from dgflow.cli.root import open_root
from dgflow.specs.step import Step
from dgflow.store.objects import ObjectStore

COMMANDS = ("run", "plan", "status", "verify", "gc", "report")

Root = Annotated[
    str | None,
    typer.Option(
        help="Where everything is kept: a folder or s3://bucket/prefix. By default $DGFLOW_ROOT, else "
        "runs/NAME.",
        show_default=False,
    ),
]
Smoke = Annotated[
    bool,
    typer.Option(
        "--smoke",
        help="The same recipe at toy size, on random weights and made images, in a root of its own "
        "(runs/NAME-smoke).",
    ),
]
TrainWorkers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="The most processes that train together. By default one a GPU or CPU that is there.",
        show_default=False,
    ),
]


def main(workflow: Callable[..., Step]) -> None:
    """Run a recipe's command line. The docstring of its module is the help's first paragraph."""
    name = Path(inspect.getfile(workflow)).stem
    arguments = sys.argv[1:]
    if not arguments or (arguments[0] not in COMMANDS and arguments[0] not in ("--help", "-h")):
        arguments = ["run", *arguments]  # no command means run
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    sys.exit(guarded(lambda: application(workflow, name)(args=arguments, standalone_mode=False)))


def application(workflow: Callable[..., Step], name: str) -> typer.Typer:
    """The Typer application of a recipe; `name` is the default root's name."""
    app = typer.Typer(
        help=inspect.cleandoc(sys.modules[workflow.__module__].__doc__ or workflow.__doc__ or ""),
        epilog="No command means run: `python RECIPE.py --root DIR` is `python RECIPE.py run --root DIR`.",
        rich_markup_mode=None if not sys.stdout.isatty() else "rich",
        add_completion=False,
        no_args_is_help=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    recipe = [
        _recipe_option(parameter)
        for parameter in inspect.signature(workflow, eval_str=True).parameters.values()
    ]

    def command(body: Callable[..., Any]) -> None:
        """Register `body(target, store, ...own options)` with the recipe's parameters as further options."""
        own = list(inspect.signature(body).parameters.values())[2:]

        def call(**options: Any) -> int:
            given = {parameter.name: options.pop(parameter.name) for parameter in recipe}
            root, smoke = options.pop("root"), options.pop("smoke")
            root = root or (os.environ.get("DGFLOW_ROOT") or f"runs/{name}").rstrip("/") + (
                "-smoke" if smoke else ""
            )
            target, store = workflow(**given), open_root(root, smoke)
            return body(
                _at_toy_size(target, store, write=body is _run) if smoke else target, store, **options
            )

        parameters = [
            inspect.Parameter("root", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Root),
            inspect.Parameter("smoke", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Smoke),
        ]
        parameters += [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own + recipe]
        vars(call)["__signature__"] = inspect.Signature(parameters)
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        call.__doc__ = body.__doc__
        app.command(body.__name__.strip("_"))(call)

    for body in (_run, _plan, _status, _verify, _gc, _report):
        command(body)
    return app


def _recipe_option(parameter: inspect.Parameter) -> inspect.Parameter:
    """A parameter of the recipe as an option; `Annotated[int, "what it is"]` gives its help."""
    kind, *words = (
        get_args(parameter.annotation)
        if get_origin(parameter.annotation) is Annotated
        else (parameter.annotation,)
    )
    option = typer.Option(
        help=" ".join(word for word in words if isinstance(word, str)),
        rich_help_panel="Recipe (changes what is made)",
    )
    return parameter.replace(annotation=Annotated[kind, option])


def _at_toy_size(target: Step, store: ObjectStore, write: bool) -> Step:
    """What is done in the place of `target` in a smoke run; `write` puts what it reads from outside into its
    root."""
    from dgflow.testing.smoke import smoke

    found = smoke(target, store.url)
    print(
        "smoke run: toy networks with random weights on made images; its numbers compare with nothing",
        flush=True,
    )
    if write:
        found.write(store)
    return found.target


def _run(
    target: Step,
    store: ObjectStore,
    json: AsJson = False,
    workers: Workers = None,
    train_workers: TrainWorkers = None,
    num_gpus: NumGpus = None,
) -> int:
    """Do what is missing, print the table, write report.html.

    Stopped anywhere, the same command goes on from there.
    """
    from dgflow.engine.execute import execute
    from dgflow.report import page, summary
    from dgflow.runtime.placement import Placement
    from dgflow.runtime.progress import Progress

    execute(
        target, store, Placement(workers=workers, train_workers=train_workers, num_gpus=num_gpus), Progress()
    )
    found = summary.summarise(target, store)
    print(summary.table(found))
    store.put("report.html", page.render(target, store).encode())
    print(f"\nreport: {store.url}/report.html")
    if json:
        print_json(summary.as_json(found))
    return 0


def _plan(
    target: Step,
    store: ObjectStore,
    json: AsJson = False,
    device: Annotated[
        str | None, typer.Option(help="Count hours of this device, such as h100 or l4.", show_default=False)
    ] = None,
    pilot: Annotated[
        bool,
        typer.Option("--pilot", help="Time one batch of everything on this machine, and count hours of it."),
    ] = False,
    price: Annotated[
        float | None, typer.Option(min=0, help="Money for an hour of the device.", show_default=False)
    ] = None,
    utilisation: Annotated[
        float | None,
        typer.Option(
            help="Share of the device's peak that is reached. By default 0.35, an assumption.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Show for every step what is there, what would be done, why, and what it takes. Starts nothing, and
    needs neither data nor weights.

    With --device or --pilot also parameters, hours and, with --price, money.
    """
    from dgflow.engine.plan import plan
    from dgflow.report.plan_text import plan_json, plan_table

    if device is not None and pilot:
        raise typer.BadParameter(
            "expected --device or --pilot, found both: one counts for a device, the other times this machine"
        )
    if price is not None and device is None and not pilot:
        raise typer.BadParameter(
            "expected --device NAME or --pilot with --price, found neither: it is the price of an hour of "
            "a device"
        )
    if utilisation is not None and device is None:
        raise typer.BadParameter(
            "expected --device NAME with --utilisation, found none: it is a share of a device's peak"
        )
    plans, costs = plan(target, store), None
    if device is not None:
        from dgflow.estimate.estimates import UTILISATION, counted

        costs = counted(
            plans, device, utilisation=UTILISATION if utilisation is None else utilisation, price=price
        )
    elif pilot:
        from dgflow.estimate.estimates import piloted

        costs = piloted(plans, lambda line: print(line, file=sys.stderr), price=price)
    print(plan_table(plans, store, costs))
    if json:
        print_json(plan_json(plans, store, costs))
    return 0


def _status(
    target: Step,
    store: ObjectStore,
    json: AsJson = False,
    price: Annotated[
        float | None,
        typer.Option(
            min=0, help="Money for an hour of one worker, to tell the cost so far.", show_default=False
        ),
    ] = None,
) -> int:
    """Show how far a run is, how fast, what it has cost and what failed where, from the root alone: it can
    run on another machine.

    Work and cost are those of what is committed: starting, waiting and lost attempts come on top. Exit status
        1 while anything is missing.
    """
    from dgflow.engine.plan import plan
    from dgflow.report import texts

    plans, now = plan(target, store), store.now()
    rows = texts.status_rows(plans, store, now=now, price=price)
    print(texts.status_table(rows, now=now))
    if json:
        print_json({"steps": rows, "total": texts.status_total(rows)})
    return 0 if all(made.complete for made in plans) else 1


def _verify(
    target: Step,
    store: ObjectStore,
    json: AsJson = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Build damaged parts again, and check once more.")
    ] = False,
) -> int:
    """Read everything back and compare it with its checksums.

    Exit status 1 when anything is damaged or missing.
    """
    from dgflow.engine.verify import repair as repaired
    from dgflow.engine.verify import verify

    def tell(line: str) -> None:
        print(line, file=sys.stderr)

    def build() -> None:
        from dgflow.engine.execute import execute
        from dgflow.runtime.placement import Placement
        from dgflow.runtime.progress import Progress

        execute(target, store, Placement(), Progress())

    found = repaired(target, store, tell, build) if repair else verify(target, store, tell)
    print(
        f"checked {found.checked:,} objects ({found.bytes / 1e6:,.1f} MB): {len(found.damaged)} damaged, "
        f"{len(found.missing)} missing"
    )
    for line in found.damaged + found.missing:
        print(f"  {line}")
    if json:
        print_json(
            {
                "checked": found.checked,
                "bytes": found.bytes,
                "damaged": found.damaged,
                "missing": found.missing,
            }
        )
    return 0 if not found.damaged and not found.missing else 1


def _gc(
    target: Step,
    store: ObjectStore,
    json: AsJson = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove it. Without this, only tell what would go.")
    ] = False,
) -> int:
    """Remove what nothing names, in the whole root: data without a receipt and notes of finished work, older
    than a week.

    A run may be at work meanwhile. Without --yes nothing is removed.
    """
    from dgflow.engine.gc import collect

    del target  # whatever recipe asks: a root is one
    found = collect(store, delete=yes, tell=print)
    objects = "1 object" if found.number == 1 else f"{found.number:,} objects"
    print(f"{'removed' if yes else 'would remove'} {objects} ({found.bytes / 1e6:,.1f} MB)")
    for line in found.left:
        print(f"  not touched: {line}")
    for key in found.restored:
        print(f"  put back, as it was committed meanwhile: {key}")
    if found.number and not yes:
        print("nothing was removed; add --yes to remove it")
    if json:
        steps = [
            {"step": each.step, "data": len(each.data), "notes": len(each.notes), "bytes": each.bytes}
            for each in found.steps
        ]
        print_json(
            {
                "deleted": yes,
                "objects": found.number,
                "bytes": found.bytes,
                "steps": steps,
                "not_touched": found.left,
            }
        )
    return 0


def _report(
    target: Step,
    store: ObjectStore,
    json: AsJson = False,
    output: Annotated[
        Path | None, typer.Option(help="Write the page here as well as into the root.", show_default=False)
    ] = None,
) -> int:
    """Write report.html from what the root holds. Exit status 1 while the result is missing: the page then
    shows what is there."""
    from dgflow.report import page, summary

    text = page.render(target, store)
    store.put("report.html", text.encode())
    if output is not None:
        output.write_text(text)
    found = summary.summarise(target, store)
    print(summary.table(found))
    print(f"\nreport: {output or store.url + '/report.html'}")
    if json:
        print_json(summary.as_json(found))
    return 0 if found.result is not None else 1

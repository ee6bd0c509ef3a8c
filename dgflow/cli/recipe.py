"""The command line of a recipe: `main(workflow)` turns the function's parameters into options of run, plan, status, verify and report.

Exit status: 0 when everything that was asked for is there, 1 when it is not, 2 for a command line that cannot be understood.
"""

import inspect
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic import ValidationError

from dgflow.steps.step import Step
from dgflow.store.objects import ObjectStore, StoreError, open_store
from dgflow.store.receipts import CorruptObject, StepMismatch

COMMANDS = ("run", "plan", "status", "verify", "report")
ROOT_FORMAT = 1

Root = Annotated[
    str | None,
    typer.Option(
        help="Where everything is kept: a folder or s3://bucket/prefix. By default $DGFLOW_ROOT, else runs/NAME.", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line of standard output.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes that make samples. By default one a CPU, or a GPU.", show_default=False)
]
TrainWorkers = Annotated[
    int | None, typer.Option(min=1, help="Processes that train together. By default one a CPU, or a GPU.", show_default=False)
]
NumGpus = Annotated[float, typer.Option(min=0, help="GPUs of each process; a fraction shares one.")]


def main(workflow: Callable[..., Step]) -> None:
    """Run a recipe's command line. The docstring of its module is the help's first paragraph."""
    name = Path(inspect.getfile(workflow)).stem
    arguments = sys.argv[1:]
    if not arguments or (arguments[0] not in COMMANDS and arguments[0] not in ("--help", "-h")):
        arguments = ["run", *arguments]  # no command means run
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    sys.exit(_guarded(lambda: application(workflow, name)(args=arguments, standalone_mode=False)))


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
    recipe = [_recipe_option(parameter) for parameter in inspect.signature(workflow, eval_str=True).parameters.values()]

    def command(body: Callable[..., Any]) -> None:
        """Register `body(target, store, ...own options)` with the recipe's parameters as further options."""
        own = list(inspect.signature(body).parameters.values())[2:]

        def call(**options: Any) -> int:
            given = {parameter.name: options.pop(parameter.name) for parameter in recipe}
            root = options.pop("root") or os.environ.get("DGFLOW_ROOT") or f"runs/{name}"
            return body(workflow(**given), open_root(root), **options)

        parameters = [inspect.Parameter("root", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Root)]
        parameters += [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own + recipe]
        vars(call)["__signature__"] = inspect.Signature(parameters)
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        call.__doc__ = body.__doc__
        app.command(body.__name__.strip("_"))(call)

    for body in (_run, _plan, _status, _verify, _report):
        command(body)
    return app


def _recipe_option(parameter: inspect.Parameter) -> inspect.Parameter:
    """A parameter of the recipe as an option; `Annotated[int, "what it is"]` gives its help."""
    kind, *words = get_args(parameter.annotation) if get_origin(parameter.annotation) is Annotated else (parameter.annotation,)
    option = typer.Option(help=" ".join(word for word in words if isinstance(word, str)), rich_help_panel="Recipe (changes what is made)")
    return parameter.replace(annotation=Annotated[kind, option])


def open_root(url: str) -> ObjectStore:
    """The store at `url`.

    Raises:
        ValueError: the place holds something else than a dgflow root, or one of another format.
        StoreError: it cannot be reached, or may not be written.
    """
    store = open_store(url)
    wanted = json.dumps({"dgflow_root": ROOT_FORMAT}).encode()
    try:
        found = store.get("dgflow.json")
    except FileNotFoundError:
        others = store.names()
        if others:
            raise ValueError(
                f"expected a dgflow root at {store.url}, found other things there ({', '.join(others[:3])}) and no dgflow.json; "
                "give an empty or a new folder, as in --root runs/mine"
            ) from None
        store.create("dgflow.json", wanted)
        return store
    if found != wanted:
        raise ValueError(
            f"expected a root of format {ROOT_FORMAT} at {store.url}, found {found[:80]!r}; "
            "use another root, or the version of dgflow that wrote it"
        )
    return store


def _run(
    target: Step,
    store: ObjectStore,
    json: AsJson = False,
    workers: Workers = None,
    train_workers: TrainWorkers = None,
    num_gpus: NumGpus = 0.0,
) -> int:
    """Do what is missing, print the table, write report.html. Stopped anywhere, the same command goes on from there."""
    from dgflow.report import page, summary
    from dgflow.runtime.placement import Placement
    from dgflow.runtime.progress import Progress
    from dgflow.steps.execute import execute

    execute(target, store, Placement(workers=workers, train_workers=train_workers, num_gpus=num_gpus), Progress())
    found = summary.summarise(target, store)
    print(summary.table(found))
    store.put("report.html", page.render(target, store).encode())
    print(f"\nreport: {store.url}/report.html")
    if json:
        _print_json(summary.as_json(found))
    return 0


def _plan(target: Step, store: ObjectStore, json: AsJson = False) -> int:
    """Show for every step what is there, what would be done, and why. Starts nothing."""
    from dgflow.report import texts
    from dgflow.steps.plan import plan

    plans = plan(target, store)
    print(texts.plan_table(plans, store))
    if json:
        _print_json(texts.plan_json(plans, store))
    return 0


def _status(target: Step, store: ObjectStore, json: AsJson = False) -> int:
    """Show how far a run is, from the root alone: it can be somebody else's, on another machine.

    Exit status 1 while anything is missing.
    """
    from dgflow.report import texts
    from dgflow.steps.plan import plan

    plans = plan(target, store)
    rows = texts.status_rows(plans, store)
    print(texts.status_table(rows))
    if json:
        _print_json({"steps": rows})
    return 0 if all(made.complete for made in plans) else 1


def _verify(
    target: Step,
    store: ObjectStore,
    json: AsJson = False,
    repair: Annotated[bool, typer.Option("--repair", help="Build damaged parts again, and check once more.")] = False,
) -> int:
    """Read everything back and compare it with its checksums. Exit status 1 when anything is damaged or missing."""
    from dgflow.steps.verify import verify

    def tell(line: str) -> None:
        print(line, file=sys.stderr)

    found = verify(target, store, tell)
    if repair and found.receipts:
        from dgflow.runtime.placement import Placement
        from dgflow.runtime.progress import Progress
        from dgflow.steps.execute import execute

        for line in found.damaged:
            tell(f"to be built again: {line}")
        for key in found.receipts:
            store.delete(key)  # without its receipt a part is missing; sealed slices keep its digest and refuse other rows in its place
        execute(target, store, Placement(), Progress())
        found = verify(target, store, tell)
    print(f"checked {found.checked:,} objects ({found.bytes / 1e6:,.1f} MB): {len(found.damaged)} damaged, {len(found.missing)} missing")
    for line in found.damaged + found.missing:
        print(f"  {line}")
    if json:
        _print_json({"checked": found.checked, "bytes": found.bytes, "damaged": found.damaged, "missing": found.missing})
    return 0 if not found.damaged and not found.missing else 1


def _report(
    target: Step,
    store: ObjectStore,
    json: AsJson = False,
    output: Annotated[Path | None, typer.Option(help="Write the page here as well as into the root.", show_default=False)] = None,
) -> int:
    """Write report.html from what the root holds. Exit status 1 while the result is missing: the page then shows what is there."""
    from dgflow.report import page, summary

    text = page.render(target, store)
    store.put("report.html", text.encode())
    if output is not None:
        output.write_text(text)
    found = summary.summarise(target, store)
    print(summary.table(found))
    print(f"\nreport: {output or store.url + '/report.html'}")
    if json:
        _print_json(summary.as_json(found))
    return 0 if found.result is not None else 1


def _print_json(value: Any) -> None:
    print(json.dumps(value, allow_nan=False))


def _guarded(call: Callable[[], Any]) -> int:
    """Errors that a person can act on become one message; others keep their traceback."""
    from typer.exceptions import TyperException

    from dgflow.steps.execute import StepFailed

    try:
        return int(call() or 0)
    except typer.Exit as stop:
        return stop.exit_code
    except TyperException as error:  # an option that is unknown, or a value of the wrong type
        error.show()  # pyright: ignore[reportAttributeAccessIssue] (what Typer raises has it, its public base class does not declare it)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _said("interrupted; what was committed stays, the same command goes on from there", 130)
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, part['loc'])) or error.title}: {part['msg'].removeprefix('Value error, ')}" for part in error.errors()
        ]
        return _said("; ".join(lines), 1)
    except (ValueError, FileNotFoundError, FloatingPointError, StepFailed, StoreError, CorruptObject, StepMismatch) as error:
        return _said(str(error), 1)


def _said(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


__all__ = ["application", "main", "open_root"]

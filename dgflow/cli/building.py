"""Call a recipe and check its result. A mistake in the recipe is reported as one message with file and
line."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from typer.exceptions import TyperException

from dgflow.specs.mistakes import described, did_you_mean, found
from dgflow.specs.own_lines import own_frames, package_frame, shown_path
from dgflow.specs.step import SampleStep, Target

_WEIGHTS = ("weights", "last", "epoch", "best")  # methods of steps that name weights


class RecipeError(ValueError):
    """A mistake in a recipe; the message begins with its file and line."""


def built(workflow: Callable[..., Any], given: Mapping[str, Any]) -> Target:
    """Call the recipe with these parameters and return its target.

    Raises RecipeError for a mistake in the recipe: an unknown field, a reference of the wrong kind, an error
    in the recipe's own lines, or a returned value that is not a target.
    """
    try:
        target = workflow(**given)
    except (TyperException, OSError):
        raise
    except Exception as error:
        frames = own_frames(error)
        inner = package_frame(error)
        if not frames or not (inner is None or isinstance(error, ValueError | TypeError)):
            raise  # an error of the package itself
        place, words = f"{shown_path(frames[-1].filename)}:{frames[-1].lineno}", _words(error)
        if inner is not None and isinstance(error, TypeError) and not words.startswith("expected"):
            words += f" (in {inner.name} of dgflow/{Path(inner.filename).name}; a value of another type?)"
        raise RecipeError(f"{place}: {words}") from error
    return _checked(target, workflow)


def _checked(target: Any, workflow: Callable[..., Any]) -> Target:
    code = workflow.__code__
    place = f"{shown_path(code.co_filename)}:{code.co_firstlineno}"
    ends = "end it with `return dg.Evaluate(...)`, or with samples or weights, such as `return step[:1000]`"
    if isinstance(target, SampleStep):
        raise RecipeError(
            f"{place}: expected {code.co_name} to return samples of {type(target).__name__}, found the step; "
            f"{target.naming['Slice']}"
        )
    if isinstance(target, Target):
        return target
    what = found(target)
    if isinstance(target, list | tuple | set | dict):
        ends = "return one step: several arms go into one Evaluate(arms={...})"
    elif isinstance(target, type):
        ends = "return an instance of the class, with values for its fields"
    raise RecipeError(f"{place}: expected {code.co_name} to return a step, found {what}; {ends}")


def _words(error: Exception) -> str:
    """Format an error as one text. An error of Python itself includes its class and a similar name."""
    if isinstance(error, ValidationError):
        return described(error)
    text = str(error)
    if isinstance(error, ValueError) and text.startswith("expected"):
        return text
    if isinstance(error, TypeError) and "BaseModel.__init__()" in text:
        return "expected fields by name, as in Heun(steps=18), found values without a name"
    near = ""
    naming = getattr(error.obj, "naming", {}) if isinstance(error, AttributeError) else {}
    if isinstance(error, AttributeError) and error.name in _WEIGHTS and "Weights" in naming:
        return f"{type(error).__name__}: {text}; {naming['Weights']}"
    if isinstance(error, AttributeError | NameError) and error.name and "mean" not in text:
        names = dir(error.obj) if isinstance(error, AttributeError) else ()
        near = did_you_mean(error.name, [name for name in names if not name.startswith("_")])
    return f"{type(error).__name__}: {text}{near}"

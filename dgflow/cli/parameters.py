"""The parameters of a recipe, with their help, as options of its command line."""

import inspect
from collections.abc import Callable, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

import typer

from dgflow.options import Former
from dgflow.specs.step import Target

PUBLISHED = "by default as published"  # of an option that its recipe leaves to the published value


class Documented(NamedTuple):
    """A type with the words and the former names of its annotation."""

    kind: Any
    words: tuple[str, ...] = ()
    former: tuple[str, ...] = ()


def documented(annotation: Any) -> Documented:
    """An annotation taken apart: `Annotated[int, "help"]`, or `Annotated[int, "help"] | None`, whose help
    says what None means."""
    if get_origin(annotation) in (Union, UnionType):
        kinds = get_args(annotation)
        annotated = [documented(kind) for kind in kinds if get_origin(kind) is Annotated]
        if len(annotated) == 1 and NoneType in kinds:
            (inner,) = annotated
            return inner._replace(kind=inner.kind | None, words=(f"{' '.join(inner.words)}; {PUBLISHED}",))
    if get_origin(annotation) is not Annotated:
        return Documented(annotation)
    kind, *rest = get_args(annotation)
    return Documented(
        kind,
        tuple(word for word in rest if isinstance(word, str)),
        tuple(old.name for old in rest if isinstance(old, Former)),
    )


def recipe_parameters(workflow: Callable[..., Target]) -> list[inspect.Parameter]:
    """The parameters of a recipe with their annotations as types."""
    return list(inspect.signature(workflow, eval_str=True).parameters.values())


def recipe_option(parameter: inspect.Parameter) -> inspect.Parameter:
    """A parameter of the recipe as an option; `Annotated[int, "what it is"]` gives its help."""
    kind, words, former = documented(parameter.annotation)
    if get_origin(kind) is Sequence:
        kind = list[get_args(kind)]
    names = [f"--{name.replace('_', '-')}" for name in (parameter.name, *former)] if former else []
    option = typer.Option(*names, help=" ".join(words), rich_help_panel="Recipe (changes what is made)")
    return parameter.replace(annotation=Annotated[kind, option])

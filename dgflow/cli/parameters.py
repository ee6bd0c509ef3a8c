"""Turn the parameters of a recipe into command-line options, and parse their values."""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import typer
from pydantic import TypeAdapter, ValidationError

from dgflow.options import Former
from dgflow.specs.mistakes import did_you_mean
from dgflow.specs.step import Target

PUBLISHED = "by default as published"  # help of an option with default None
_LISTS = (list, tuple, Sequence)
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_FORMS = {int: "INT", float: "NUMBER", bool: "true|false", str: "TEXT", NoneType: "none"}  # in --help


class Documented(NamedTuple):
    """A type with the help text and the former names in its annotation."""

    kind: Any
    words: tuple[str, ...] = ()
    former: tuple[str, ...] = ()


def documented(annotation: Any) -> Documented:
    """Split an annotation: `Annotated[int, "help"]`, or `Annotated[int, "help"] | None`, to whose help the
    meaning of None is added.
    """
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
    """The parameters of a recipe, with evaluated annotations."""
    return list(inspect.signature(workflow, eval_str=True).parameters.values())


@dataclass(frozen=True)
class Parameter:
    """A parameter of the recipe; `kind` is its type."""

    name: str
    kind: Any
    help: str = ""
    default: Any = inspect.Parameter.empty
    former: tuple[str, ...] = ()  # former names

    @property
    def option(self) -> str:
        return self.options[0]

    @property
    def options(self) -> list[str]:
        """The option, and the options of its former names."""
        return [f"--{name.replace('_', '-')}" for name in (self.name, *self.former)]

    @property
    def is_required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The type, or the types of a union."""
        return get_args(self.kind) if get_origin(self.kind) in (Union, UnionType) else (self.kind,)

    @property
    def is_list(self) -> bool:
        return any(kind in _LISTS or get_origin(kind) in _LISTS for kind in self.kinds)

    @property
    def expected(self) -> str:
        """The accepted values, in words."""
        return " or ".join(dict.fromkeys(map(_words, self.kinds)))

    @property
    def form(self) -> str:
        """The form of a value in the help, such as `INT|none`."""
        forms = (
            "|".join(map(str, get_args(kind)))
            if get_origin(kind) is Literal
            else _FORMS.get(kind, "INTS" if self.is_list and int in get_args(kind) else "VALUE")
            for kind in self.kinds
        )
        return "|".join(forms)


def parameter_of(parameter: inspect.Parameter) -> Parameter:
    """Describe a parameter of the recipe's function."""
    kind, words, former = documented(parameter.annotation)
    if kind is inspect.Parameter.empty:
        kind = str if parameter.default in (None, inspect.Parameter.empty) else type(parameter.default)
    return Parameter(parameter.name, kind, " ".join(words), parameter.default, former)


def _words(kind: Any) -> str:
    if kind is NoneType:
        return "none"
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if kind in _LISTS or get_origin(kind) in _LISTS:
        inner = next(iter(get_args(kind)), str)
        return {int: "whole numbers", float: "numbers"}.get(inner, "a list") + " with commas between them"
    return _WORDS.get(kind, getattr(kind, "__name__", str(kind)))


def value_of(parameter: Parameter, word: str) -> Any:
    """Parse one value of a parameter. Raises typer.BadParameter for a value of another type."""
    kinds = parameter.kinds
    if NoneType in kinds and word.lower() == "none":
        return None
    for kind in kinds:
        for choice in get_args(kind) if get_origin(kind) is Literal else ():
            if word == str(choice):
                return choice
    others = [kind for kind in kinds if kind is not NoneType and get_origin(kind) is not Literal]
    for kind in others:
        try:
            value = _parsed(kind, word)
        except ValidationError:
            continue
        if not (isinstance(value, float) and not math.isfinite(value)):
            return value
    choices = [str(choice) for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    near = did_you_mean(word, choices)
    raise typer.BadParameter(f"{parameter.option}: expected {parameter.expected}, found {word!r}{near}")


def _parsed(kind: Any, word: str) -> Any:
    if kind in _LISTS or get_origin(kind) in _LISTS:
        return TypeAdapter(kind).validate_python([each.strip() for each in word.split(",")])
    return TypeAdapter(kind).validate_python(word)


def recipe_option(parameter: inspect.Parameter) -> inspect.Parameter:
    """Make the command-line option of a recipe's parameter."""
    kind, words, former = documented(parameter.annotation)
    if get_origin(kind) is Sequence:
        kind = list[get_args(kind)]
    names = [f"--{name.replace('_', '-')}" for name in (parameter.name, *former)] if former else []
    option = typer.Option(*names, help=" ".join(words), rich_help_panel="Recipe (changes what is made)")
    own = parameter_of(parameter)
    kinds = [each for each in own.kinds if each is not NoneType]
    if len(kinds) > 1 or kinds[0] in (int, float) or get_origin(kinds[0]) is Literal:
        option.parser, option.metavar = partial(_option_value, own), own.form
        kind = Any
    elif own.is_list:
        option.metavar = own.form
    return parameter.replace(annotation=Annotated[kind, option])


def _option_value(parameter: Parameter, word: Any) -> Any:
    """Parse a value of an option, whose errors name the option already."""
    try:
        return value_of(parameter, str(word))
    except typer.BadParameter as error:
        raise typer.BadParameter(error.message.removeprefix(f"{parameter.option}: ")) from None

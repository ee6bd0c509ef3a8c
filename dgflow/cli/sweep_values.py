"""The values of a sweep as its command line gives them, and their combinations.

A parameter takes one value, or several with commas between them. For a parameter that is a list, a list with
commas is one value; several have semicolons between them, which separate the values of any parameter.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import typer
from pydantic import TypeAdapter, ValidationError

from dgflow.cli.parameters import documented
from dgflow.specs.mistakes import did_you_mean

MOST_COMBINATIONS = 1_000  # without --yes
_LISTS = (list, tuple, Sequence)
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_FORMS = {int: "INT", float: "NUMBER", bool: "true|false", str: "TEXT", NoneType: "none"}  # in --help


@dataclass(frozen=True)
class Parameter:
    """A parameter of the recipe, of the type `kind`."""

    name: str
    kind: Any
    help: str = ""
    default: Any = inspect.Parameter.empty
    former: tuple[str, ...] = ()  # names that it had before

    @property
    def option(self) -> str:
        return self.options[0]

    @property
    def options(self) -> list[str]:
        """Its option, and those of its former names."""
        return [f"--{name.replace('_', '-')}" for name in (self.name, *self.former)]

    @property
    def is_required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def kinds(self) -> tuple[Any, ...]:
        """Its type, or the types of a union."""
        return get_args(self.kind) if get_origin(self.kind) in (Union, UnionType) else (self.kind,)

    @property
    def is_list(self) -> bool:
        return any(kind in _LISTS or get_origin(kind) in _LISTS for kind in self.kinds)

    @property
    def expected(self) -> str:
        """The values that it takes, in words."""
        return " or ".join(dict.fromkeys(map(_words, self.kinds)))

    @property
    def form(self) -> str:
        """One value of it in the help, such as `INT|none`."""
        forms = (
            "|".join(map(str, get_args(kind)))
            if get_origin(kind) is Literal
            else _FORMS.get(kind, "INTS" if self.is_list and int in get_args(kind) else "VALUE")
            for kind in self.kinds
        )
        return "|".join(forms)


def parameter_of(parameter: inspect.Parameter) -> Parameter:
    """A parameter of the recipe's function."""
    kind, words, former = documented(parameter.annotation)
    if kind is inspect.Parameter.empty:
        kind = str if parameter.default in (None, inspect.Parameter.empty) else type(parameter.default)
    return Parameter(parameter.name, kind, " ".join(words), parameter.default, former)


def values_of(parameter: Parameter, texts: Sequence[str]) -> list[Any]:
    """The values that a command line gives to a parameter, each once.

    Raises typer.BadParameter for a value of another type, and for one that is given twice.
    """
    separator = ";" if parameter.is_list or any(";" in text for text in texts) else ","
    if parameter.is_list and not any(";" in text for text in texts):
        texts = [",".join(texts)]  # an option that is repeated, as `run` takes a list
    words = [word.strip() for text in texts for word in text.split(separator)]
    values = [_value(parameter, word) for word in words]
    for number, value in enumerate(values):
        if any(value == other and type(value) is type(other) for other in values[:number]):
            raise typer.BadParameter(
                f"{parameter.option}: expected each value once, found {words[number]} twice; leave one out"
            )
    return values


def combinations(swept: Mapping[str, Sequence[Any]], *, zipped: bool, yes: bool) -> list[dict[str, Any]]:
    """Every combination of the values, the last parameter changing fastest; or, zipped, the first values of
    all lists, then the second ones.

    Raises typer.BadParameter for zipped lists of several lengths, and for more than 1,000 combinations
    without `yes`.
    """
    if zipped:
        lengths = {name: len(values) for name, values in swept.items()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"--{name.replace('_', '-')} of {count}" for name, count in lengths.items())
            raise typer.BadParameter(f"expected lists of one length with --zip, found {found}")
        count = next(iter(lengths.values()))
    else:
        count = math.prod(map(len, swept.values()))
    if count > MOST_COMBINATIONS and not yes:
        raise typer.BadParameter(
            f"expected at most {MOST_COMBINATIONS:,} combinations (arms), found {count:,}; take fewer "
            "values, --zip the lists, or add --yes to run them all"
        )
    rows: Iterable[tuple[Any, ...]] = (
        zip(*swept.values(), strict=True) if zipped else itertools.product(*swept.values())
    )
    return [dict(zip(swept, row, strict=True)) for row in rows]


def averaged(
    names: Sequence[str], swept: Mapping[str, Sequence[Any]], known: Sequence[Parameter]
) -> list[str]:
    """The swept parameters that `--over` names, as Python names. A list with one value, such as sampling
    seeds, is left out: an arm's spread is over it already.

    Raises typer.BadParameter for a parameter that the recipe does not have, or that has one value.
    """
    by_name = {parameter.name: parameter for parameter in known}
    words = [word.strip().lstrip("-").replace("-", "_") for text in names for word in text.split(",")]
    for word in words:
        if word not in by_name:
            options = [name.replace("_", "-") for name in by_name]
            near = did_you_mean(word.replace("_", "-"), options) or f"; the recipe has {', '.join(options)}"
            raise typer.BadParameter(
                f"--over: expected a parameter of the recipe, found {word.replace('_', '-')}{near}"
            )
        if word not in swept and not by_name[word].is_list:
            option = by_name[word].option
            raise typer.BadParameter(
                f"--over: expected a parameter with several values, found {word.replace('_', '-')}; give "
                f"them, as in {option} A,B,C"
            )
    return [word for word in dict.fromkeys(words) if word in swept]


def _words(kind: Any) -> str:
    if kind is NoneType:
        return "none"
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if kind in _LISTS or get_origin(kind) in _LISTS:
        inner = next(iter(get_args(kind)), str)
        return {int: "whole numbers", float: "numbers"}.get(inner, "a list") + " with commas between them"
    return _WORDS.get(kind, getattr(kind, "__name__", str(kind)))


def _value(parameter: Parameter, word: str) -> Any:
    """One value of a parameter from its text."""
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

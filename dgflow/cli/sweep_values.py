"""Parse the values of a sweep from its command line, and form their combinations.

A parameter takes one value, or several separated by commas. For a list parameter, a comma-separated list is
one value; semicolons separate values of any parameter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer

from dgflow.cli.parameters import Parameter, value_of
from dgflow.specs.mistakes import did_you_mean

MOST_COMBINATIONS = 1_000  # without --yes


def values_of(parameter: Parameter, texts: Sequence[str]) -> list[Any]:
    """Parse the distinct values that a command line gives to a parameter.

    Raises typer.BadParameter for a value of another type, and for a repeated value.
    """
    separator = ";" if parameter.is_list or any(";" in text for text in texts) else ","
    if parameter.is_list and not any(";" in text for text in texts):
        texts = [",".join(texts)]  # a repeated option, the way `run` takes a list
    words = [word.strip() for text in texts for word in text.split(separator)]
    values = [value_of(parameter, word) for word in words]
    for number, value in enumerate(values):
        if any(value == other and type(value) is type(other) for other in values[:number]):
            raise typer.BadParameter(
                f"{parameter.option}: expected each value once, found {words[number]} twice; leave one out"
            )
    return values


def combinations(swept: Mapping[str, Sequence[Any]], *, zipped: bool, yes: bool) -> list[dict[str, Any]]:
    """Form the combinations of the values; the last parameter varies fastest. With `zipped`, the first values
    of all lists form one combination, the second values the next.

    Raises typer.BadParameter for zipped lists of different lengths, and for more than 1,000 combinations
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
            f"expected at most {MOST_COMBINATIONS:,} combinations (arms), found {count:,}; give fewer "
            "values, --zip the lists, or add --yes to run them all"
        )
    rows: Iterable[tuple[Any, ...]] = (
        zip(*swept.values(), strict=True) if zipped else itertools.product(*swept.values())
    )
    return [dict(zip(swept, row, strict=True)) for row in rows]


def averaged(
    names: Sequence[str], swept: Mapping[str, Sequence[Any]], parameters: Sequence[Parameter]
) -> list[str]:
    """The swept parameters in `--over`, as Python names. A list parameter with one value, such as sampling
    seeds, is omitted: an arm's spread covers it already.

    Raises typer.BadParameter for a parameter that the recipe does not have, or with only one value.
    """
    by_name = {parameter.name: parameter for parameter in parameters}
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

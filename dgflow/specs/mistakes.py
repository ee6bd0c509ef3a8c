"""Explain validation errors in the terms of a recipe: the class, the field, what was expected and found, and
the remedy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from inspect import isroutine
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

EXPLAINED = "mistake"  # type of an error line that is explained already
SHOWN = 60  # maximum characters of a value in a message

_EXPECTED = {
    "model_type": "{class_name}",
    "model_attributes_type": "{class_name}",
    "is_instance_of": "{class}",
    "float_type": "a number",
    "float_parsing": "a number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "True or False",
    "bool_parsing": "True or False",
    "string_type": "text",
    "tuple_type": "a tuple",
    "dict_type": "a dictionary",
    "mapping_type": "a dictionary",
    "none_required": "None",
    "literal_error": "{expected}",
    "finite_number": "a finite number",
    "string_pattern_mismatch": "text of the form {pattern}",
}
_ADVICE = {
    "SamplerSpec": "samplers are written as Heun(steps=18), Restart(...), EDMAblation(...), DDPM(...), "
    "DDIM(...) or RK45(...)",
    "HeadSpec": "heads of discriminators are written as ADMEncoder(...) or Perceptron(...)",
    "Weights": "weights are .last(), .epoch(n) or .best(...) of a training, .weights() of a Pretrained, or "
    "official(NAME)",
    "Slice": "samples are step[start:stop] or step.all()",
    "Result": "the file of a step is step.result()",
}
"""How to write a reference, by its class."""


def explained(error: ValidationError, kind: type[BaseModel], given: Any) -> ValidationError:
    """Explain the validation error of a `kind` made from `given`. Error lines about one value of a union
    become one line.
    """
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for line in error.errors(include_url=False):
        loc, line = _placed(line, given)
        groups.setdefault(loc, []).append(line)
    lines = [_line(loc, lines, kind) for loc, lines in groups.items()]
    return ValidationError.from_exception_data(error.title, lines)


def described(error: ValidationError) -> str:
    """Join the lines of an error into one text: `Heun.step: no such field, ...`."""
    lines = []
    for line in error.errors(include_url=False):
        where = path((error.title, *line["loc"]))
        lines.append(f"{where}: {line['msg'].removeprefix('Value error, ')}")
    return "; ".join(lines)


def path(parts: Iterable[int | str]) -> str:
    """Format a field path: `guidance[0].weight`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")


def did_you_mean(name: object, names: Iterable[str]) -> str:
    """Suggest a similar name: `; did you mean steps?`; empty if no name is close."""
    near = get_close_matches(str(name), list(names), 1)
    return f"; did you mean {near[0]}?" if near else ""


def found(value: Any) -> str:
    """Describe a value."""
    if isinstance(value, type):
        return f"the class {value.__name__} (call it: {value.__name__}(...))"
    if isinstance(value, BaseModel):
        name = type(value).__name__
        return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
    if isinstance(value, partial):
        return f"a partial of {getattr(value.func, '__name__', value.func)} (call it)"
    if isinstance(value, Mapping):
        return f"a dictionary of {_some(map(repr, value))}" if value else "an empty dictionary"
    if isinstance(value, list | tuple | set | frozenset):
        kind = type(value).__name__
        return f"a {kind} of {_some(map(found, value))}" if value else f"an empty {kind}"
    if isroutine(value):
        name = value.__qualname__.rsplit(">.", 1)[-1]
        return f"the function {name} (call it: {value.__name__}(...))"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _some(items: Iterable[str]) -> str:
    words = list(dict.fromkeys(items))
    return ", ".join(words[:3]) + ", …" * (len(words) > 3)


def _placed(line: Any, given: Any) -> tuple[tuple[int | str, ...], Any]:
    """The location of the value that an error line is about, and the line."""
    value: Any = given
    loc, place = line["loc"], ()
    for depth, part in enumerate(loc):
        if value is line["input"] and value is not None and depth:
            return place, line  # the rest only names the member of the union that was tried
        if isinstance(value, BaseModel) and isinstance(part, int):  # iterated over where a tuple is expected
            return place, {"type": "tuple_type", "input": value, "loc": place}
        if depth and isinstance(part, str) and (value is None or isinstance(value, list | tuple)):
            continue  # the member of the union that was tried
        place = (*place, part)
        try:
            items: Any = value
            value = items[part]
        except (TypeError, KeyError, IndexError):
            return (*place, *loc[depth + 1 :]), line
    return place, line


def _line(loc: tuple[int | str, ...], lines: Sequence[Any], kind: type[BaseModel]) -> InitErrorDetails:
    first = lines[0]
    if len(lines) == 1 and first["type"] == "value_error":
        problem = PydanticCustomError("value_error", "{text}", {"text": str(first["ctx"]["error"])})
    elif len(lines) == 1 and first["type"] == EXPLAINED:
        problem = PydanticCustomError(EXPLAINED, "{text}", {"text": first["msg"]})
    else:
        problem = PydanticCustomError(EXPLAINED, "{text}", {"text": _text(loc, lines, kind)})
    return InitErrorDetails(type=problem, loc=loc, input=first["input"])


def _text(loc: Sequence[int | str], lines: Sequence[Any], kind: type[BaseModel]) -> str:
    first = lines[0]
    if first["type"] == "extra_forbidden":
        if len(loc) > 1:
            return "no such field"
        names = sorted(kind.model_fields)
        near = did_you_mean(str(loc[0]), names) or ";"
        return f"no such field{near} {kind.__name__} has {', '.join(names)}"
    if first["type"] == "missing":
        return f"expected a value, found none; give {loc[-1]}=..."
    value, wanted = first["input"], list(dict.fromkeys(_expected(line) for line in lines))
    classes = [line.get("ctx", {}).get("class_name", "") for line in lines]
    advice = _advice(value, classes)
    if "a tuple" in wanted and isinstance(value, BaseModel):
        advice = "write (x,) for one"
    if first["type"] == "literal_error" and isinstance(value, str):
        near = did_you_mean(
            value, first["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        )
        advice = near.removeprefix("; ")
    return f"expected {' or '.join(wanted)}, found {found(value)}" + (f"; {advice}" if advice else "")


def _expected(line: Any) -> str:
    if line["type"] in _EXPECTED:
        return _EXPECTED[line["type"]].format(**line.get("ctx", {}))
    if line["type"] in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        return f"a number {line['msg'].removeprefix('Input should be ')}"
    return (
        line["msg"].removeprefix("Value error, ").removeprefix("Input should be ").replace("a valid ", "a ")
    )


def _advice(value: Any, classes: Sequence[str]) -> str:
    """The remedy for a value given instead of one of `classes`; the value's own advice comes first."""
    naming: Mapping[str, str] = {} if isinstance(value, type) else getattr(value, "naming", {})
    for name in classes:
        if name in naming:
            return f"{type(value).__name__} is a step; {naming[name]}"
    if isinstance(value, type):
        return ""
    return next((_ADVICE[name] for name in classes if name in _ADVICE), "")

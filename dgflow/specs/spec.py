"""The base of every frozen value that a recipe names, and annotated types shared by fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

from dgflow.specs.mistakes import explained

PLACEMENT = "placement"
"""Metadata of fields that are not part of the identity, as in `epochs: Annotated[int, PLACEMENT] = 10`."""

LATER = "later"
"""Metadata of fields added to a released kind. They are part of the identity only if they differ from their
default, so the fingerprints of earlier roots stay valid: `alpha: Annotated[bool, LATER] = False`.
"""

BatchSize = Annotated[int, PLACEMENT, Field(gt=0)]
"""An upper bound: a shard is split into equal batches that fit into memory."""

Precision = Literal["float32", "tf32", "bfloat16", "float16"]


def _not_float16(value: Any) -> Any:
    if value == "float16":
        raise ValueError(
            'expected "float32" or "bfloat16", found "float16", which is for sampling only: training in '
            "float16 needs loss scaling, which is not implemented; take one of the two"
        )
    return value


ActivationPrecision = Annotated[Literal["float32", "bfloat16"], BeforeValidator(_not_float16)]
Seeding = Literal["counter", "edm"]
"""The rule that derives a sample's noise from a seed and an index."""

Grid = Literal["tail", "whole"]
"""The noise levels of a run that starts within a sampler's range. "tail": the levels of the sampler's grid
below the first level. "whole": as many as in a full run, on a new grid between the first and the last.
"""


class SmokeRun(Protocol):
    """A smoke run: the same recipe at toy size. Steps and specs make their toys through this interface."""

    def value(self, value: Any, factor: int) -> Any:
        """The toy of a field's value; image sides are divided by `factor`."""

    def step(self, step: Any) -> Any:
        """The toy of a step, made once per step."""

    def slice(self, part: Any) -> Any:
        """The slice of a toy step that replaces `part`."""

    def checkpoint(self, step: Any) -> Any:
        """The toy of a `Pretrained`, whose file the smoke run writes."""

    def statistics(self, step: Any) -> Any:
        """The toy of a `PublishedStatistics`, whose file the smoke run writes."""

    def images(self, step: Any) -> Any:
        """The toy of an `ImportImages`, whose pictures the smoke run writes."""


class Spec(BaseModel):
    """A frozen value with named fields. Unknown fields are refused, as are floats without a stable form."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _explain_errors(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Explain validation errors: what was expected, what was found, and the remedy."""
        try:
            return handler(value)
        except ValidationError as error:
            if not isinstance(value, Mapping):  # nested in another value, which explains the error
                raise
            raise explained(error, cls, value) from None

    def plain_fields(self) -> dict[str, Any]:
        """The fields that form the identity, as plain data."""
        values = {
            name: (getattr(self, name), info)
            for name, info in type(self).model_fields.items()
            if PLACEMENT not in info.metadata
        }
        return {
            name: plain(value)
            for name, (value, info) in values.items()
            if LATER not in info.metadata or value != info.get_default(call_default_factory=True)
        }

    def plain(self) -> dict[str, Any]:
        """The class name and the fields that form the identity, as plain data."""
        return {"type": type(self).__name__, **self.plain_fields()}

    def references(self, path: str) -> Iterator[tuple[str, Any]]:
        """The references to steps in the fields, by field path."""
        for name in type(self).model_fields:
            yield from references(f"{path}.{name}".lstrip("."), getattr(self, name))

    def in_smoke(self, smoke: SmokeRun, factor: int) -> Self:
        """The toy of this spec: the spec itself, if none of its fields has a smaller toy."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        toys = {name: smoke.value(value, factor) for name, value in fields.items()}
        changed = {name: toy for name, toy in toys.items() if toy is not fields[name]}
        return self.model_copy(update=changed) if changed else self


def plain(value: Any) -> Any:
    """Convert a field's value to plain data; canonical JSON refuses values without a stable form."""
    if isinstance(value, Spec):
        return value.plain()
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def references(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The references to steps in a field's value, by field path."""
    if isinstance(value, Spec):
        yield from value.references(path)
    elif isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, item in items:
            yield from references(f"{path}.{name}".lstrip("."), item)

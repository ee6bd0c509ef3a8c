"""The base of every frozen value that a recipe names, and annotated types that its fields share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from dgflow.specs.mistakes import explained

PLACEMENT = "placement"
"""Metadata of fields that are not identity, as in `epochs: Annotated[int, PLACEMENT] = 10`."""

LATER = "later"
"""Metadata of fields that a released kind got later. They are identity only where they differ from their
default, so the fingerprints of earlier roots stay: `alpha: Annotated[bool, LATER] = False`."""

BatchSize = Annotated[int, PLACEMENT, Field(gt=0)]
"""An upper bound: a shard is cut into equal batches that fit into memory."""

Precision = Literal["float32", "tf32", "bfloat16"]
ActivationPrecision = Literal["float32", "bfloat16"]
Seeding = Literal["counter", "edm"]
"""The rule by which a seed and an index give a sample's noise."""

Grid = Literal["tail", "whole"]
"""The noise levels of a run that begins within a sampler's range. "tail": those of the sampler's own grid
that lie below the first one. "whole": as many as in a whole run, laid anew between the first and the last."""


class SmokeRun(Protocol):
    """The same recipe at toy size, into which steps and specs turn themselves."""

    def value(self, value: Any, factor: int) -> Any:
        """The toy of a field's value; sides of images are divided by `factor`."""

    def step(self, step: Any) -> Any:
        """The toy of a step, each made once."""

    def slice(self, part: Any) -> Any:
        """The slice of a toy step in the place of `part`."""

    def checkpoint(self, step: Any) -> Any:
        """The toy of a `Pretrained`, whose file the smoke run writes."""

    def statistics(self, step: Any) -> Any:
        """The toy of a `PublishedStatistics`, whose file the smoke run writes."""

    def images(self, step: Any) -> Any:
        """The toy of an `ImportImages`, whose pictures the smoke run writes."""


class Spec(BaseModel):
    """A frozen value with named fields; unknown fields are refused, and floats that have no stable form."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _in_words(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Errors name what was expected and found, and what to write."""
        try:
            return handler(value)
        except ValidationError as error:
            if not isinstance(value, Mapping):  # in a field of another value, which knows more of it
                raise
            raise explained(error, cls, value) from None

    def plain_fields(self) -> dict[str, Any]:
        """The fields that are identity, as plain data."""
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
        """Plain data that identify it."""
        return {"type": type(self).__name__, **self.plain_fields()}

    def references(self, path: str) -> Iterator[tuple[str, Any]]:
        """The references to steps in its fields, by the path of the field."""
        for name in type(self).model_fields:
            yield from references(f"{path}.{name}".lstrip("."), getattr(self, name))

    def in_smoke(self, smoke: SmokeRun, factor: int) -> Self:
        """Its toy: itself, if none of its fields has a smaller one."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        toys = {name: smoke.value(value, factor) for name, value in fields.items()}
        changed = {name: toy for name, toy in toys.items() if toy is not fields[name]}
        return self.model_copy(update=changed) if changed else self


def plain(value: Any) -> Any:
    """A field's value as plain data; canonical JSON refuses what has no stable form."""
    if isinstance(value, Spec):
        return value.plain()
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def references(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The references to steps in a field's value, by the path of the field."""
    if isinstance(value, Spec):
        yield from value.references(path)
    elif isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, item in items:
            yield from references(f"{path}.{name}".lstrip("."), item)

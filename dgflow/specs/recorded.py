"""Rebuild steps from their records: the live step of a `step.json`, without the recipe that wrote it.

A record holds every field that is part of the identity, and references as fingerprints. The rebuilt step must
have the recorded fingerprint. Fields outside the identity have their defaults, unless the caller gives them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from dgflow.specs.spec import PLACEMENT, Spec
from dgflow.specs.step import Measurements, Reference, Result, Slice, Step, Weights, kind_of

Kind = TypeVar("Kind", bound=Spec)

NOT_RECORDED = "(not recorded)"

StepOf = Callable[[str, str], Step]
"""(kind, fingerprint) -> the live step that a reference names."""


def rebuilt(document: Mapping[str, Any], fingerprint: str, step_of: StepOf, **placement: Any) -> Step:
    """Rebuild the step that `document` (kind, schema_version, fields) describes.

    Args:
        fingerprint: the recorded fingerprint, which the rebuilt step must have.
        placement: values of fields outside the identity, such as `epochs`.

    Raises:
        ValueError: a kind or class that is not defined in this process, or of another version of dgflow.
    """
    kind, fields = document["kind"], document["fields"]
    known = _by_name(Step, kind_of)
    if kind not in known:
        raise ValueError(
            f"expected a kind of step that is defined here, found {kind!r}; import the module that defines "
            "it before the root is opened"
        )
    step_class = known[kind]
    if document["schema_version"] != step_class.schema_version:
        raise ValueError(
            f"expected schema_version {step_class.schema_version} of {kind}, found "
            f"{document['schema_version']}; use the version of dgflow that wrote it"
        )
    specs = _by_name(Spec, lambda each: each.__name__)
    try:
        live = {name: _live(value, specs, step_of) for name, value in fields.items()}
        step = step_class(**live, **placement)
    except ValidationError as error:
        unknown = sorted({name for name in _types(fields) if name not in specs})
        remedy = (
            f"import the module that defines {', '.join(unknown)} before the root is opened"
            if unknown
            else "fields are missing that are not recorded, such as the source of images outside the root"
        )
        raise ValueError(f"{kind}-{fingerprint[:12]} cannot be rebuilt from its record: {remedy}") from error
    if step.fingerprint != fingerprint:
        raise ValueError(
            f"expected the fingerprint {fingerprint[:12]} of the rebuilt {kind}, found "
            f"{step.fingerprint[:12]}; use the version of dgflow that wrote it"
        )
    return step


def spec_of(value: Mapping[str, Any], references: Mapping[str, Reference]) -> Spec:
    """Rebuild a spec from its `plain()`; `references` are its fields that refer to steps, which `value`
    omits.

    Raises:
        ValueError: a class that is not defined in this process, or fields that it does not have.
    """
    specs = _by_name(Spec, lambda each: each.__name__)
    if unknown := sorted({name for name in _types(value) if name not in specs}):
        raise ValueError(
            f"expected classes that are defined here, found {', '.join(unknown)}; import the module that "
            "defines them first, or use the version of dgflow that wrote it"
        )
    fields = {name: _live(item, specs, _no_step) for name, item in value.items() if name != "type"}
    return specs[value["type"]](**fields, **references)


def references_in(value: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Find the references to steps in the fields of a record, by field path: mappings with `step`,
    `fingerprint` and the key that gives the kind of reference.
    """
    if isinstance(value, Mapping) and is_reference(value):
        yield path, value
    elif isinstance(value, Mapping | list):
        for name, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from references_in(item, f"{path}.{name}".lstrip("."))


def is_reference(value: Mapping[str, Any]) -> bool:
    """True for a reference to a step in the fields of a record, see `references_in`."""
    return isinstance(value.get("step"), str) and isinstance(value.get("fingerprint"), str)


def _live(value: Any, specs: Mapping[str, type[Spec]], step_of: StepOf) -> Any:
    if isinstance(value, list):
        return tuple(_live(item, specs, step_of) for item in value)
    if not isinstance(value, Mapping):
        return value
    if is_reference(value):
        return _reference(value, step_of)
    live = {name: _live(item, specs, step_of) for name, item in value.items() if name != "type"}
    if "type" not in value:
        return live
    named = specs.get(value["type"]) if isinstance(value["type"], str) else None
    if named is None:
        return {"type": value["type"], **live}
    return _as_recorded(named(**_unrecorded(named) | live), live)


def _unrecorded(spec_class: type[Spec]) -> dict[str, str]:
    """Name the required fields of a spec that are not identity, such as the location of images outside a
    root.
    """
    fields = spec_class.model_fields.items()
    return {name: NOT_RECORDED for name, info in fields if PLACEMENT in info.metadata and info.is_required()}


def _as_recorded(spec: Spec, fields: Mapping[str, Any]) -> Spec:
    """Restore recorded integers in a spec. Copies of a spec with changed fields are not validated, so some
    recipes have stored 1 instead of 1.0, which is a different identity.
    """
    integers = {
        name: value
        for name, value in fields.items()
        if isinstance(value, int) and isinstance(getattr(spec, name), float)
    }
    return spec.model_copy(update=integers) if integers else spec


def _reference(value: Mapping[str, Any], step_of: StepOf) -> Reference:
    step: Any = step_of(value["step"], value["fingerprint"])
    others = {name: item for name, item in value.items() if name not in ("step", "fingerprint")}
    if "which" in others:
        return Weights(step=step, **others)
    if "start" in others:
        return Slice(step=step, **others)
    return Measurements(step=step) if step.folder == "epochs" else Result(step=step)


def _no_step(kind: str, fingerprint: str) -> Step:
    raise ValueError(f"expected no reference to a step, found {kind}-{fingerprint[:12]}")


def _types(value: Any) -> Iterator[str]:
    """The class names in a record."""
    if isinstance(value, Mapping):
        if isinstance(value.get("type"), str):
            yield value["type"]
        for item in value.values():
            yield from _types(item)
    elif isinstance(value, list):
        for item in value:
            yield from _types(item)


def _by_name(base: type[Kind], name: Callable[[type[Kind]], str]) -> dict[str, type[Kind]]:
    """The concrete subclasses of `base` in this process, by name; for duplicate names, the later
    definition.
    """
    found: dict[str, type[Kind]] = {}
    for each in base.__subclasses__():
        if not inspect.isabstract(each):
            found[name(each)] = each
        found |= _by_name(each, name)
    return found

"""The lineage of a published result: its steps, without machine-specific details, and the licences of the
published networks among them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dgflow.networks.catalogue import CATALOGUE
from dgflow.networks.published import NONE_STATED
from dgflow.specs.graph import graph
from dgflow.specs.spec import Spec
from dgflow.specs.step import Slice, Step, Weights
from dgflow.steps.pretrained import Pretrained
from dgflow.steps.sampling import Sampling

LICENCES = {
    "MIT": "mit",
    "Apache 2.0": "apache-2.0",
    "CC BY-NC 4.0": "cc-by-nc-4.0",
    "CC BY-NC-SA 4.0": "cc-by-nc-sa-4.0",
}
"""The hub's names of the licences in the catalogue."""

UNKNOWN = "unknown"

_PUBLIC = re.compile(r"(https?|hf|mlxtend|sklearn):[^?]*")


class Base(NamedTuple):
    """A published network from which a result was made."""

    name: str
    licence: str
    page: str


def steps_behind(step: Step) -> list[Step]:
    """The step and all steps that it was made from."""
    return [node.step for node in graph(step)]


def bases(step: Step) -> list[Base]:
    """The published networks from which a step was made."""
    found = {}
    for each in steps_behind(step):
        if isinstance(each, Pretrained):
            file = CATALOGUE.get(each.source)
            licence, page = (UNKNOWN, "") if file is None else (file.licence, file.page)
            name = public(each.source)
            found[name] = Base(name, licence, page)
    return list(found.values())


def licence_of(made_with: Sequence[Base]) -> str:
    """The hub's name of the licence that all networks share; `UNKNOWN` without networks or with several
    licences."""
    names = {LICENCES.get(base.licence, UNKNOWN) for base in made_with}
    return names.pop() if len(names) == 1 else UNKNOWN


def licences_in_words(made_with: Sequence[Base]) -> str:
    """List the networks with their licences, as in `edm-cifar10-32x32-uncond-vp: CC BY-NC-SA 4.0; ...`."""
    if not made_with:
        return "no published network; the licence of the data is not recorded"
    return "; ".join(
        f"{base.name}: {'no licence stated' if base.licence == NONE_STATED else base.licence}"
        for base in made_with
    )


def licence_in_words(licence: str, made_with: Sequence[Base]) -> str:
    """Describe the licence of a publication, and the licences of the networks that it was made with."""
    given = "No licence is given" if licence == UNKNOWN else f"`{licence}`"
    return f"{given}. Made with {licences_in_words(made_with)}."


def public(source: str) -> str:
    """A source in a form fit for publication: of a local path or a bucket, only the last component."""
    if source in CATALOGUE or _PUBLIC.fullmatch(source):
        return source
    return source.rstrip("/").rpartition("/")[2]


def documents(step: Step) -> dict[str, dict[str, Any]]:
    """The records of the step and of all steps that it was made from, by name, with public sources."""
    return {each.name: _public_document(each.document()) for each in steps_behind(step)}


def _public_document(document: Mapping[str, Any]) -> dict[str, Any]:
    fields = document["fields"]
    sources = {"source": public(fields["source"])} if isinstance(fields.get("source"), str) else {}
    return {**document, "fields": {**fields, **sources}}


def samples_in_words(part: Slice) -> str:
    """Describe samples in one line of Markdown: real samples by their source, generated samples by network,
    sampler, seed and guidance."""
    step, span = part.step, f"`[{part.start}:{part.stop}]`"
    if isinstance(step, Sampling):
        guided = f", guided by {_listed(step.guidance)}" if step.guidance else ""
        selected = "" if step.selection is None else f", selected by {call(step.selection)}"
        drawn = f"samples {span} of seed {step.seed}"
        if step.seeds[1] == "edm":
            drawn = f"samples of EDM's seeds {step.seed + part.start} to {step.seed + part.stop - 1}"
        sampler = f"`{call(step.sampler)}`"
        return (
            f"{drawn} from {network_in_words(step.score)}, by {sampler}{guided}{selected}, {step.precision}"
        )
    if isinstance(source := getattr(step, "source", None), str):
        shape = step.shape
        classes = f"{shape.num_classes} classes" if shape.num_classes else "no classes"
        size = f"{shape.image_size} pixels, {shape.channels} channel{'s' * (shape.channels > 1)}, {classes}"
        return f"images {span} of `{public(source)}` in seeded random order ({size})"
    behind = [samples_in_words(each) for each in step.reads.values() if isinstance(each, Slice)]
    made = f", made of {'; '.join(behind)}" if behind else ""
    return f"{span} of {step.kind}{made}"


def network_in_words(weights: Weights) -> str:
    """Describe a network in Markdown: a published network by its name, any other by the step that made it."""
    step = weights.step
    if isinstance(step, Pretrained):
        return f"`{public(step.source)}`"
    return f"a {type(step.architecture).__name__} of `{step.name}` ({weights.which})"


def call(spec: Spec) -> str:
    """Format a spec as in a recipe, with its non-default settings, such as `Heun(steps=8)`."""
    return f"{type(spec).__name__}({', '.join(settings(spec))})"


def settings(spec: Spec) -> list[str]:
    """Format the non-default settings of a spec, each such as `steps=8`."""
    return [
        f"{name}={_value(getattr(spec, name))}"
        for name, info in type(spec).model_fields.items()
        if getattr(spec, name) != info.get_default(call_default_factory=True)
    ]


def _value(value: Any) -> str:
    if isinstance(value, Weights):
        return value.step.name
    return call(value) if isinstance(value, Spec) else repr(value)


def _listed(terms: Iterable[Spec]) -> str:
    return " and ".join(f"`{call(term)}`" for term in terms)

"""Write the model card of a published network. Every number in the card comes from a receipt."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from dgflow._version import __version__
from dgflow.diffusion.guidance_specs import DiscriminatorGuidance
from dgflow.networks.roles import ClassifierSpec, DiscriminatorSpec, ScoreNetworkSpec
from dgflow.publish.lineage import (
    call,
    licence_in_words,
    network_in_words,
    public,
    samples_in_words,
    settings,
)
from dgflow.publish.network_facts import NetworkFacts
from dgflow.publish.pieces import MADE_UP, card, python
from dgflow.publish.tables import Table
from dgflow.report.layout import markdown_table
from dgflow.specs.figures import Metric, directions
from dgflow.specs.step import Slice, Weights
from dgflow.steps.arm_values import value_text
from dgflow.steps.published_network import name_of
from dgflow.steps.sampling import Sampling

_CURVE = 20  # approximate rows of the table of epochs


def network_card(facts: NetworkFacts, licence: str, name: str, *, made_up: bool = False) -> str:
    """Format the card as Markdown with the hub's front matter.

    Args:
        licence: the hub's name of the licence.
        name: the name for `official`.
        made_up: state in the card that the weights are meaningless.
    """
    parts = [
        f"# {_kind(facts)} for {_source(facts)}, {_size(facts)}",
        MADE_UP if made_up else "",
        _about(facts),
        "## Use",
        *_use(facts, name),
        "## Training",
        *_training(facts),
        "## Held-out measurements",
        *_held_out(facts),
        *_measured(facts),
        "## Licence",
        licence_in_words(licence, facts.bases),
        "## Provenance",
        _provenance(facts),
    ]
    return card(_front(facts, licence, name), parts)


def _front(facts: NetworkFacts, licence: str, name: str) -> dict[str, Any]:
    hub = [base.name for base in facts.bases if base.name.startswith("hf:")]
    return {
        "library_name": "dgflow",
        "license": licence,
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["dgflow", "diffusion", *_tags(facts)],
        "base_model": sorted({"/".join(each.removeprefix("hf:").split("/")[:2]) for each in hub}),
        "model-index": _model_index(facts, name.rpartition("/")[2]),
    }


def _tags(facts: NetworkFacts) -> list[str]:
    spec = facts.network.spec
    if isinstance(spec, DiscriminatorSpec):
        return ["discriminator-guidance"]
    return ["noisy-classifier"] if isinstance(spec, ClassifierSpec) else []


def _model_index(facts: NetworkFacts, name: str) -> list[dict[str, Any]]:
    source = _source(facts)
    results = [
        {
            "task": {"type": "unconditional-image-generation"},
            "dataset": {"name": source, "type": source},
            "metrics": [
                {
                    "type": column,
                    "name": f"{metric.heading} ({arm})",
                    "value": table.arms[arm][column]["mean"],
                }
                for column, metric in table.columns.items()
                if column in table.arms[arm]
            ],
        }
        for table in facts.tables
        for arm in sorted(table.with_it)
    ]
    return [{"name": name, "results": results}] if results else []


def _source(facts: NetworkFacts) -> str:
    """The name of the real data."""
    source = getattr(facts.step.real.step, "source", None)
    return public(source) if isinstance(source, str) else facts.step.real.step.kind


def _kind(facts: NetworkFacts) -> str:
    spec = facts.network.spec
    if isinstance(spec, DiscriminatorSpec):
        return "Discriminator"
    return "Score network" if isinstance(spec, ScoreNetworkSpec) else "Classifier"


def _about(facts: NetworkFacts) -> str:
    shape, spec = facts.step.shape, facts.network.spec
    classes = facts.step.classes
    on = f"{shape.image_size} x {shape.image_size} x {shape.channels} {_samples(facts)}"
    given = f", given the class ({classes:,} classes)" if classes else ", without class labels"
    if isinstance(spec, DiscriminatorSpec):
        does = (
            f"Distinguishes real from generated {on} at every noise level{given}. Its logit estimates the "
            "log density ratio of real to generated samples. The gradient of the logit corrects a frozen "
            "diffusion model during sampling: Discriminator Guidance (Kim et al., ICML 2023)."
            if spec.knows_noise
            else f"Distinguishes real from generated {on} without noise{given}. It scores and selects "
            "finished samples, and cannot guide."
        )
    elif isinstance(spec, ScoreNetworkSpec):
        does = f"Denoises {on}{given}."
    else:
        does = f"Classifies noisy {on} into {classes:,} classes."
    time = facts.conditioning.get("time")
    time_input = f" Its input for the noise level is the time `{time}`." if time and spec.knows_noise else ""
    return f"{does}{time_input} The network is `{call(facts.network.spec)}`."


def _size(facts: NetworkFacts) -> str:
    """The size of the network's samples, for a title."""
    side, channels = facts.step.shape.image_size, facts.step.shape.channels
    return f"{side} x {side} x {channels} latents" if facts.step.sees_latents else f"{side} pixels"


def _samples(facts: NetworkFacts) -> str:
    return "latents" if facts.step.sees_latents else "images"


def _use(facts: NetworkFacts, name: str) -> Iterator[str]:
    network, official = facts.network.spec, f'dg.official("{name}")'
    arm = _guided_by(facts)
    chosen = _settings(facts, arm)
    measured = ", with the measured settings" if arm else ""
    if arm and (len(arm.guidance) > 1 or arm.selection is not None):
        measured = ", with its settings in the measured arm, which also had other guidance or a selection"
    yield f"In a recipe of dgflow{measured}:"
    if isinstance(network, DiscriminatorSpec) and network.knows_noise:
        recipe = [
            f"discriminator = {official}",
            f"guidance = dg.DiscriminatorGuidance({', '.join(['discriminator=discriminator', *chosen])})",
            f"score = {_score(arm)}",
            f"samples = dg.Generate(score=score, {_sampler(arm)}guidance=(guidance,))[:50_000]",
        ]
    elif isinstance(network, ScoreNetworkSpec):
        recipe = [f"samples = dg.Generate(score={official})[:50_000]"]
    else:
        recipe = [f"weights = {official}"]
    yield python("\n".join(["import dgflow as dg", "", *recipe]))
    yield "In Python, without a recipe:"
    labels = ", labels" if facts.step.classes else ""
    call_line = "module = network.network  # gives logits of noisy images and their time"
    if isinstance(network, DiscriminatorSpec):
        call_line = (
            f"log_ratio = network.log_ratio({_samples(facts)}, 0.5{labels})  # [n], at noise level 0.5"
        )
    elif isinstance(network, ScoreNetworkSpec):
        call_line = f"clean = network.denoise(noisy, 0.5{labels})  # [n, C, H, W], at noise level 0.5"
    lines = ["import dgflow as dg", "", f"network = dg.load({official})", call_line]
    if isinstance(network, DiscriminatorSpec) and network.knows_noise:
        term = f"term = network.term({', '.join(chosen)})"
        lines.append(f"{term}  # for dgflow.diffusion and for pipelines of diffusers")
    yield python("\n".join(lines))
    if name.startswith("hf:"):
        yield "Add `@COMMIT` to the name to pin this version. Recipes are then built without network access."


def _guided_by(facts: NetworkFacts) -> Sampling | None:
    """The sampling step of the first measured arm that this network guided; None without one."""
    for found in facts.tables:
        for arm in sorted(found.with_it & found.samples.keys()):
            step = found.samples[arm].origin.step
            if isinstance(step, Sampling) and any(_is_of(term, facts) for term in step.guidance):
                return step
    return None


def _is_of(term: Any, facts: NetworkFacts) -> bool:
    """True for guidance by this network alone, with settings that are valid outside its root."""
    return (
        isinstance(term, DiscriminatorGuidance)
        and getattr(term.discriminator, "step", None) == facts.step
        and not term.asks_gain
    )


def _settings(facts: NetworkFacts, arm: Sampling | None) -> list[str]:
    """The settings of guidance by the network, as code."""
    if arm is None:
        return ["weight=1.0"]
    term = next(term for term in arm.guidance if _is_of(term, facts))
    return [_code(each) for each in settings(term) if not each.startswith("discriminator=")]


def _score(arm: Sampling | None) -> str:
    if arm is not None and (name := name_of(arm.score)):
        return f'dg.official("{name}")'
    return "...  # the score network that generated the fakes; it is not published here"


def _sampler(arm: Sampling | None) -> str:
    return "" if arm is None else f"sampler={_code(call(arm.sampler))}, "


def _code(text: str) -> str:
    """Prefix the names of specs in code with `dg.`, as in `dg.Heun(steps=8)`."""
    return re.sub(r"\b[A-Z]\w*\(", r"dg.\g<0>", text)


def _training(facts: NetworkFacts) -> Iterator[str]:
    step = facts.step
    lines = [f"- real: {samples_in_words(step.real)}"]
    for path, reference in step.reads.items():
        if isinstance(reference, Slice) and path != "real":
            lines.append(f"- {path}: {samples_in_words(reference)}")
        elif isinstance(reference, Weights):
            lines.append(f"- {path}: {network_in_words(reference)}")
    plain = {
        name: value
        for name, value in step.plain_fields().items()
        if isinstance(value, bool | int | float | str) or value is None
    }
    shown = ", ".join(f"{name}={value!r}" for name, value in plain.items())
    lines.append(f"- epoch {facts.network.epoch} of {max(facts.epochs)}; {shown}")
    yield "\n".join(lines)


def _held_out(facts: NetworkFacts) -> Iterator[str]:
    own = facts.network.bound.receipt.number
    held = round(facts.step.real.rows * facts.step.held_out)
    chance = facts.step.chance
    at_chance = f" At chance, `held_out_loss` is {chance.words} = {chance.loss:.4f}." if chance else ""
    if facts.step.held_out_items:
        yield f"On the last {held:,} of the real samples, which were not used for training.{at_chance}"
    names = [
        name
        for name, value in facts.metrics.items()
        if isinstance(value, float) and name in facts.epochs[own]
    ]
    rows = [
        [f"**{number}**" if number == own else str(number), *(_number(metrics.get(name)) for name in names)]
        for number, metrics in _thinned(facts.epochs, own)
    ]
    yield markdown_table(["epoch", *names], rows)
    if len(rows) < len(facts.epochs):
        yield f"{len(rows)} of {len(facts.epochs)} epochs are shown; `training.json` has all."
    if levels := facts.metrics.get("by_sigma"):
        columns = [name for name in levels[0] if name not in ("sigma", "n")]
        yield f"Epoch {own} by noise level:"
        yield markdown_table(
            ["sigma", *columns],
            [
                [
                    " to ".join(f"{edge:.3g}" for edge in level["sigma"]),
                    *(_number(level[name]) for name in columns),
                ]
                for level in levels
            ],
        )


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else ""


def _thinned(epochs: Mapping[int, Any], own: int | None) -> list[tuple[int, Any]]:
    """Select about `_CURVE` evenly spaced epochs, including the first, the last and the published one."""
    every = -(-len(epochs) // _CURVE)
    kept = {min(epochs), max(epochs), own} | {number for number in epochs if number % every == 0}
    return [(number, epochs[number]) for number in sorted(epochs) if number in kept]


def _measured(facts: NetworkFacts) -> Iterator[str]:
    yield "## Measured effect"
    if not facts.tables:
        yield "No result in the root of this training was measured with these weights."
        return
    for each in facts.tables:
        yield _arms(each)
        yield _protocol(each)
        yield "\n".join(f"- {arm}: {samples_in_words(part)}" for arm, part in each.samples.items())


def _arms(found: Table) -> str:
    rows = []
    for arm, values in found.arms.items():
        with_it = "yes" if arm in found.with_it else "no"
        numbers = [_value(values, column, metric) for column, metric in found.columns.items()]
        rows.append([arm, with_it, f"{values['n']:,}" if "n" in values else "", _seeds(values), *numbers])
    headings = [metric.heading for metric in found.columns.values()]
    return markdown_table(["arm", "with this network", "samples", "seeds", *headings], rows)


def _seeds(values: Mapping[str, Any]) -> str:
    return ", ".join(str(seed) for seed in values.get("seeds", []))


def _value(values: Mapping[str, Any], column: str, metric: Metric) -> str:
    return value_text(values[column], metric.decimals) if column in values else ""


def _protocol(found: Table) -> str:
    lines = [f"Mean and sample standard deviation over the seeds; {directions(found.columns.values())}."]
    reference = found.reference
    if "protocol" in reference:
        count = reference.get("reference_n")
        against = f" against {count:,} reference images" if count else ""
        lines.append(
            f"Protocol `{reference['protocol']}`{against} (digest `{_short(reference, 'reference_digest')}`),"
            f" features of the network `{_short(reference, 'network_digest')}`."
        )
    lines += [
        f"{arm}: {warning}" for arm, values in found.arms.items() for warning in values.get("warnings", [])
    ]
    return " ".join(lines[:2]) + "".join(f"\n- {line}" for line in lines[2:])


def _short(reference: Mapping[str, Any], name: str) -> str:
    return str(reference.get(name))[:12]


def _provenance(facts: NetworkFacts) -> str:
    receipt = facts.network.bound.receipt
    versions = ", ".join(f"{name} {value}" for name, value in receipt.versions.items())
    return (
        f"Written by dgflow {__version__} from the records of `{facts.step.name}`. `training.json` holds "
        "every step that led to the weights, the measurements of all epochs, and the receipt of this epoch."
        "\n\n"
        + markdown_table(
            ["", ""],
            [
                ["step", f"`{facts.step.fingerprint}`"],
                ["weights (SHA-256)", f"`{receipt.rows_sha256}`"],
                *([f"input `{name}`", f"`{digest}`"] for name, digest in receipt.inputs.items()),
                ["trained on", f"{receipt.device}; {versions}"],
            ],
        )
    )

"""The weights and windows of guidance that Gain chooses: finding the measurement, and reading its choice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from dgflow.diffusion.gain_curve import GainChoice, MeasuredGain
from dgflow.diffusion.guidance_specs import DiscriminatorGuidance, Guidance, GuideTerm
from dgflow.specs.bound import Bound, BoundWeights
from dgflow.specs.step import Result, Weights
from dgflow.steps.judging.gain import Gain
from dgflow.steps.training.train_discriminator import TrainDiscriminator


def check_gain(score: Weights, guidance: Sequence[Guidance]) -> None:
    """Raises ValueError, naming the field, if Gain is to choose and was not measured for `score` and the
    discriminators that guide it."""
    for number, term in enumerate(guidance):
        if isinstance(term, DiscriminatorGuidance) and term.asks_gain:
            _check_term(f"guidance.{number}", score, term)


def _check_term(where: str, score: Weights, term: DiscriminatorGuidance) -> None:
    step = term.guides[0].step
    if isinstance(term.weight, Result):
        _check_result(where, score, term, term.weight)
        return
    if len(term.guides) > 1 or not isinstance(step, TrainDiscriminator):
        found = f"{len(term.guides)} discriminators" if len(term.guides) > 1 else f"a {step.kind}"
        raise ValueError(
            f"{where}: expected one discriminator that was trained with gain_of, whose epochs record Gain, "
            f"found {found}: measure their Gain with a step, and give weight=Gain(score=..., "
            "discriminator=..., real=...).result()"
        )
    if step.gain_of is None:
        raise ValueError(
            f"{where}: expected a discriminator whose epochs record Gain, found one without gain_of: train "
            "it with gain_of set to the weights of the score network that is guided"
        )
    _check_same(where, score, step.gain_of)


def _check_result(where: str, score: Weights, term: DiscriminatorGuidance, result: Result) -> None:
    step = result.step
    if not isinstance(step, Gain):
        raise ValueError(f"{where}.weight: expected the result of a Gain, found that of a {step.kind}")
    if (step.term.guides, step.combine) != (term.guides, term.combine):
        raise ValueError(
            f"{where}.weight: expected the Gain of the guiding discriminators, {_named(term)}, found that "
            f"of {_named(step.term)}"
        )
    _check_same(where, score, step.score)


def _check_same(where: str, score: Weights, measured: Weights) -> None:
    if (measured.fingerprint, measured.which) != (score.fingerprint, score.which):
        raise ValueError(
            f"{where}: expected a Gain of the score network that is guided, {score.title} ({score.which}), "
            f"found that of {measured.title} ({measured.which})"
        )


def _named(term: DiscriminatorGuidance) -> str:
    names = ", ".join(f"{weights.name} ({weights.which})" for weights in term.guides)
    return names if len(term.guides) == 1 else f"{names} by their {term.combine}"


def gain_choices(guides: Mapping[str, GuideTerm], inputs: Bound) -> dict[str, GainChoice]:
    """Returns Gain's choice for the terms that use it, by the path of the field of their networks."""
    return {
        path: term.chosen(_measured(path, term, inputs))
        for path, term in guides.items()
        if isinstance(term, DiscriminatorGuidance) and term.asks_gain
    }


def by_gain(guides: Mapping[str, GuideTerm], inputs: Bound) -> dict[str, GainChoice]:
    """Returns Gain's choices by the path of the term, `guidance.0.by_gain`: the `choices` of a step."""
    return {
        f"{path.rpartition('.')[0]}.by_gain": choice for path, choice in gain_choices(guides, inputs).items()
    }


def _measured(path: str, term: DiscriminatorGuidance, inputs: Bound) -> MeasuredGain:
    if isinstance(term.weight, Result):
        content = inputs.result(f"{path.rpartition('.')[0]}.weight")
        return MeasuredGain.of(json.loads(content)["gain_curve"])
    item = inputs.items[path]
    assert isinstance(item, BoundWeights), path
    if "gain_curve" not in item.receipt.metrics:
        raise ValueError(
            f"expected epoch {item.receipt.number} of {item.step_store.name} to record Gain, found "
            f"{', '.join(item.receipt.metrics)} alone; remove the step, with `dgflow rm`, and run again"
        )
    return MeasuredGain.of(item.receipt.metrics["gain_curve"])

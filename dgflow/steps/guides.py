"""The networks that guide a sampler: which of them fit a score network, and how often they are evaluated.

A guide sees the score network's own samples and labels, so that shapes have to be equal, and a guide with
classes has to know them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dgflow.diffusion.guidance_specs import ClassifierFree, DiscriminatorGuidance, Guidance, GuideTerm
from dgflow.diffusion.sampler_specs import SamplerSpec
from dgflow.networks.families import names, score_network
from dgflow.networks.roles import ClassifierSpec, DiscriminatorSpec, ScoreNetworkSpec
from dgflow.specs.step import Weights

if TYPE_CHECKING:
    from torch import Tensor

    from dgflow.diffusion.score_model import ScoreModel

ROLES = {"classifier": ClassifierSpec, "discriminator": DiscriminatorSpec}


def check_guides(score: Weights, guidance: Sequence[Guidance]) -> None:
    """Raises ValueError, naming the field, for networks that do not fit each other."""
    network = score_network(score)
    shape, classes = score.step.shape, score.step.classes
    if sum(isinstance(term, ClassifierFree) for term in guidance) > 1:
        raise ValueError("guidance: expected at most one ClassifierFree")
    before = 0
    for number, term in enumerate(guidance):
        where = f"guidance.{number}"
        if isinstance(term, ClassifierFree):
            if not network.has_null_class:
                known = names(ScoreNetworkSpec, having=lambda family: family.has_null_class)
                raise ValueError(
                    f"{where}: classifier-free guidance needs a network with a null class ({known}), found "
                    f"{_kind(score)}"
                )
            continue
        step, role = term.guide.step, ROLES[term.role]
        if not isinstance(step.architecture, role):
            raise ValueError(
                f"{where}.{term.role}: expected a Train{term.role.title()} or a Pretrained {names(role)}, "
                f"found {_kind(term.guide)}"
            )
        if step.shape[:2] != shape[:2]:
            raise ValueError(
                f"{where}: expected a network for the score network's samples, {shape.channels} channels of "
                f"{shape.image_size} pixels a side, found one for {step.shape.channels} of "
                f"{step.shape.image_size}"
            )
        if 0 < step.classes < classes:
            raise ValueError(
                f"{where}: expected a network that knows the {classes} classes of the score network, found "
                f"{step.classes} classes"
            )
        if isinstance(term, DiscriminatorGuidance) and term.match_preceding_norm and before == 0:
            raise ValueError(
                f"{where}: match_preceding_norm has no term before it whose norm could be matched: list "
                "the classifier first"
            )
        before += 1


def _kind(weights: Weights) -> str:
    return f"{weights.step.kind} of {type(weights.step.network).__name__}"


def guide_evaluations(score: Weights, sampler: SamplerSpec, terms: Sequence[GuideTerm]) -> list[float]:
    """Evaluations of every guide per sample: inside its window, and where its weight is not 0.

    Counted by walking the sampler and the terms over one pixel, with networks that do nothing; estimated
    where the sampler chooses its steps by what the networks give.
    """
    import torch

    estimates = [sampler.evaluations_within(*term.window) for term in terms]
    if None not in estimates:
        return [float(times) for times in estimates if times is not None]
    counts = [0] * len(terms)

    def network(number: int) -> Callable[..., Tensor]:
        def guide(y: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
            counts[number] += 1
            values = y.flatten(1).mean(1)
            is_classifier = terms[number].role == "classifier"
            return values[:, None].expand(-1, 2) if is_classifier else values

        return guide

    stand_ins: list[Any] = [network(number) for number in range(len(terms))]
    built = [
        term.build(stand_in, lambda sigma: sigma) for term, stand_in in zip(terms, stand_ins, strict=True)
    ]
    point = torch.ones(1, 1, 1, 1)
    labels = torch.zeros(1, dtype=torch.int64)
    sampler.sample(_without_network(score), point, labels, built, lambda _: torch.zeros_like(point))
    return [float(count) for count in counts]


def _without_network(score: Weights) -> ScoreModel:
    """The score model of a network, with its noise levels and schedule, that sees noise alone."""
    import torch

    with torch.device("meta"):
        model = score_network(score).score_model(score.step.fresh())
    # Rounding to the network's own levels would move a few of them across the edge of a window at most.
    return replace(
        model,
        denoiser=lambda x, sigma, labels: torch.zeros_like(x),
        predictor=None if model.predictor is None else lambda y, time, labels: (y, torch.zeros_like(y)),
        round_sigma=None,
    )

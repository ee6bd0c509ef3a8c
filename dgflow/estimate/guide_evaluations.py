"""How often a sampler asks each of its guides: inside their windows, and where their weights are not 0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dgflow.diffusion.guidance_specs import ClassifierFree, ClassifierGuidance, DiscriminatorGuidance
from dgflow.diffusion.sampler_specs import RK45
from dgflow.networks.families import score_network
from dgflow.steps.generate import Generate

if TYPE_CHECKING:
    from torch import Tensor

    from dgflow.diffusion.score_model import ScoreModel


def guide_evaluations(step: Generate) -> list[float]:
    """Evaluations a sample of every guide, in the order in which they are listed.

    Counted by walking the step's own sampler and terms over one pixel, with networks that do nothing. RK45
    chooses its steps by what the networks say, so there it is the window's share of tau times the typical
    number of evaluations: a rough estimate.
    """
    terms = [term for term in step.guidance if not isinstance(term, ClassifierFree)]
    if isinstance(step.sampler, RK45):
        return [step.sampler.nfe * _share(step.sampler, term) for term in terms]
    return _walked(step, terms)


def _share(sampler: RK45, term: DiscriminatorGuidance | ClassifierGuidance) -> float:
    low, high = term.window
    inside = min(high, sampler.tau_max) - max(low, sampler.tau_min)
    return max(0.0, inside) / (sampler.tau_max - sampler.tau_min)


def _walked(step: Generate, terms: list[Any]) -> list[float]:
    import torch

    counts = [0] * len(terms)

    def log_ratio(number: int) -> Callable[..., Tensor]:
        def guide(y: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
            counts[number] += 1
            values = y.flatten(1)
            return (
                values.mean(1)
                if isinstance(terms[number], DiscriminatorGuidance)
                else values.mean(1, keepdim=True).expand(-1, 2)
            )

        return guide

    built = [term.build(log_ratio(number), lambda sigma: sigma) for number, term in enumerate(terms)]
    point = torch.ones(1, 1, 1, 1)
    step.sampler.sample(
        _score(step), point, torch.zeros(1, dtype=torch.int64), built, lambda _: torch.zeros_like(point)
    )
    return [float(count) for count in counts]


def _score(step: Generate) -> ScoreModel:
    """The score model of the step's network, with its noise levels and schedule, which sees noise alone."""
    import torch

    from dgflow.estimate.exercise import fresh

    with torch.device("meta"):
        model = score_network(step.score).score_model(fresh(step.score.step))
    # Rounding to the levels that a network knows moves none of them across more than the edge of a window.
    return replace(
        model,
        denoiser=lambda x, sigma, labels: torch.zeros_like(x),
        predictor=None if model.predictor is None else lambda y, time, labels: (y, torch.zeros_like(y)),
        round_sigma=None,
    )

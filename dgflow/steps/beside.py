"""Measurements of a recipe's arms that need no samples, shown beside the recipe's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dgflow.diffusion.guidance_specs import DiscriminatorGuidance, Guidance, ScaleOrGainOf
from dgflow.specs.step import Result, Slice, Step
from dgflow.steps.generate import Generate
from dgflow.steps.judging.likelihood import Likelihood
from dgflow.steps.mechanism.of_arms import mechanism as figures_of_mechanism
from dgflow.steps.sampling import Sampling

TRUNCATIONS = (0.03, 0.1, 0.3)
"""Noise levels of figure 14 of Kim et al. 2023, beside the lowest one of the sampler."""

GRAPH = 4
"""Number of samples that can be drawn in the memory of one image's likelihood, which keeps the graph of a
gradient."""


def beside(
    arms: Mapping[str, Sequence[Slice]], *, real: Slice, likelihood: int = 0, mechanism: int = 0
) -> tuple[Result, ...]:
    """Returns the measurements to show beside the table of `arms`, for `Evaluate(beside=...)`.

    Score network and guidance are those of each arm's `Generate`. A likelihood's lowest and highest noise
    levels are the sampler's `sigma_min` and `sigma_max`; if the sampler has none (RK45, DDPM, DDIM) or they
    are not set, 0.002 and 80, narrowed to the network's own range. The likelihood is that of the
    probability-flow ODE, whatever noise the sampler adds. The last images of `real` are measured: trainings
    on its first images, or with a held-out share, have not seen them.

    Arms with a selection are left out: their samples do not follow the flow of their score network and
    guidance, and their density is not known.

    Args:
        real: in the form that the score network takes, images or latents.
        likelihood: the number of images whose bits per dimension are measured by `Likelihood`; 0: none.
        mechanism: the number of images, and of samples per arm, for the figures of mechanism
            (`dgflow.steps.mechanism.of_arms`); 0: none.

    Raises ValueError for the likelihood of latents, for arms of several score networks or ranges of noise
    levels, for mechanism figures without a discriminator, for more images than there are, and if every arm
    has a selection.
    """
    results: list[Result] = []
    if likelihood or mechanism:
        arms = _unselected(arms)
    if likelihood:
        results.append(_likelihood(arms, _last(real, likelihood, "likelihood")))
    if mechanism:
        first = {name: arm[0] for name, arm in arms.items()}
        results += figures_of_mechanism(first, _last(real, mechanism, "mechanism"))
    return tuple(results)


def _unselected(arms: Mapping[str, Sequence[Slice]]) -> Mapping[str, Sequence[Slice]]:
    def selects(step: Step) -> bool:
        return isinstance(step, Sampling) and step.selection is not None

    kept = {name: arm for name, arm in arms.items() if not selects(arm[0].origin.step)}
    if not kept:
        raise ValueError(
            "likelihood, mechanism: expected an arm without a selection, whose samples follow the flow of "
            f"its score network and guidance, found none of {', '.join(arms)}; leave the options out"
        )
    return kept


def _last(real: Slice, count: int, option: str) -> Slice:
    if not 2 <= count <= real.rows:
        raise ValueError(
            f"{option}: expected 2 to {real.rows:,} real images, as many as there are in {real.title}, or 0 "
            f"for none, found {count:,}"
        )
    return real.step[real.stop - count : real.stop]


def _likelihood(arms: Mapping[str, Sequence[Slice]], real: Slice) -> Result:
    steps = {name: _generate(name, arm) for name, arm in arms.items()}
    first = next(iter(steps.values()))
    for name, step in steps.items():
        if (step.score, _ends(step)) != (first.score, _ends(first)):
            raise ValueError(
                f"likelihood: expected arms of one score network and one range of noise levels, found arm "
                f"{name!r} of another; leave the option out"
            )
    low, high = _ends(first)
    return Likelihood(
        score=first.score,
        arms={name: _of_flow(name, step) for name, step in steps.items()},
        real=real,
        sigma_min=low,
        sigma_max=high,
        truncations=tuple(level for level in TRUNCATIONS if low is None or level > low),
        batch_size=max(1, first.batch_size // GRAPH),
    ).result()


def _generate(name: str, arm: Sequence[Slice]) -> Generate:
    step = arm[0].step
    if not isinstance(step, Generate) or step.gives_latents:
        raise ValueError(
            f"likelihood: expected arms of Generate with a score network of pixels, found {step.title} in "
            f"arm {name!r}; the likelihood of latents is not that of the images decoded from them: leave the "
            "option out"
        )
    return step


def _ends(step: Generate) -> tuple[float | None, float | None]:
    """Returns the lowest and highest noise level of the sampler, None if the sampler does not set them."""
    low, high = (getattr(step.sampler, name, None) for name in ("sigma_min", "sigma_max"))
    return low, high


def _of_flow(name: str, step: Generate) -> tuple[Guidance, ...]:
    """Returns the guidance of the ODE whose samples the sampler draws: each term with one weight, without
    boost."""
    terms: list[Guidance] = []
    for term in step.guidance:
        if isinstance(term, DiscriminatorGuidance):
            weight = _mean(name, term, step.sampler.second_order_share)
            term = term.model_copy(update={"weight": weight, "second_order_weight": 0.0, "boost": None})
        terms.append(term)
    return tuple(terms)


def _mean(name: str, term: DiscriminatorGuidance, share: float) -> ScaleOrGainOf:
    """Returns the weight of the flow that a step with this share of the second order follows: the mean of
    both orders' weights."""
    first, second = term.weight, term.second_order_weight
    if share == 0 or first == second or (isinstance(first, Result) and second == "gain"):
        return first
    if isinstance(first, int | float) and isinstance(second, int | float):
        return (1 - share) * first + share * second
    raise ValueError(
        "likelihood: expected weights of both orders that are numbers, or equal, so that their mean is "
        f"known, found {first} and {second} in arm {name!r}; set second_order_weight"
    )

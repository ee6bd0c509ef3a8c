"""The measurements that show how guidance acts in a recipe's arms, with their discriminators and images."""

from __future__ import annotations

from collections.abc import Mapping

from dgflow.diffusion.guidance_settings import Combine
from dgflow.diffusion.guidance_specs import DiscriminatorGuidance, OneOrSeveral
from dgflow.diffusion.rk45_specs import RK45
from dgflow.specs.step import Result, Slice, Weights
from dgflow.steps.mechanism.log_ratio_path import LogRatioPath
from dgflow.steps.mechanism.losses_by_level import LossesByLevel
from dgflow.steps.mechanism.regeneration import Regeneration
from dgflow.steps.sampling import Sampling
from dgflow.steps.training.train_discriminator import TrainDiscriminator

DRAWS = 8
"""Draws of noise for each image and level of the regenerated averages: half of the step's default."""

Guide = tuple[OneOrSeveral, Combine]


def mechanism(arms: Mapping[str, Slice], real: Slice) -> tuple[Result, ...]:
    """Returns the steps that measure how guidance acts. For each discriminator, or ensemble, of the arms: its
    log-ratio along the paths of the arms that it guides and of the unguided arms. For all of them together:
    the losses by noise level, and the averages of regenerated images under the score network of the guided
    arms, alone and guided as in the arms.

    The first samples of each arm are measured, as many as there are real images. The fakes are ones that the
    first discriminator was not trained on: held out, or drawn beyond its training set.

    Raises ValueError for arms that are not sampled, if no discriminator guides an arm, or if the guided arms
    have several score networks.
    """
    steps = {name: _sampling(name, part) for name, part in arms.items()}
    guides = {name: _guide(step) for name, step in steps.items()}
    guided = {name: guide for name, guide in guides.items() if guide is not None}
    if not guided:
        raise ValueError(
            f"mechanism: expected an arm that a discriminator guides, found none of {', '.join(arms)}; leave "
            "the option out"
        )
    first = {
        name: part.origin.step[part.origin.start : part.origin.start + real.rows]
        for name, part in arms.items()
    }
    paths = [
        LogRatioPath(
            arms={name: first[name] for name in arms if guides[name] in (None, guide)},
            discriminator=guide[0],
            combine=guide[1],
            real=real,
        )
        for guide in dict.fromkeys(guided.values())
    ]
    scores = {steps[name].score.variant: name for name in guided}
    if len(scores) > 1:
        raise ValueError(
            "mechanism: expected guided arms of one score network, found several, in the arms "
            f"{', '.join(scores.values())}; leave the option out"
        )
    own = steps[next(iter(guided))]
    others = [*_losses(own.score, guided, real), _regeneration(own, steps, real)]
    return tuple(step.result() for step in [*paths, *others])


def _losses(score: Weights, guided: Mapping[str, Guide], real: Slice) -> list[LossesByLevel]:
    """Returns one step for each way in which ensembles are combined."""
    fake = _unseen(*next(iter(guided.items())), real.rows)
    ways: dict[Combine, None] = dict.fromkeys(how for _, how in guided.values())
    return [
        LossesByLevel(
            score=score,
            discriminators={
                arm: discriminator for arm, (discriminator, how) in guided.items() if how == combine
            },
            combine=combine,
            real=real,
            fake=fake,
        )
        for combine in ways
    ]


def _regeneration(own: Sampling, steps: Mapping[str, Sampling], real: Slice) -> Regeneration:
    """Returns the step that regenerates images with the arms of the score network of `own`, by its sampler,
    each sample with its own step sizes."""
    sampler = own.sampler
    if isinstance(sampler, RK45):
        sampler = sampler.model_copy(update={"shared_block": None})
    return Regeneration(
        score=own.score,
        arms={name: step.guidance for name, step in steps.items() if step.score.variant == own.score.variant},
        real=real,
        sampler=sampler,
        draws=DRAWS,
        precision=own.precision,
    )


def _sampling(name: str, part: Slice) -> Sampling:
    step = part.origin.step
    if not isinstance(step, Sampling):
        raise ValueError(
            f"mechanism: expected samples of Generate, or images decoded from them, found {part.title} in "
            f"arm {name!r}; leave the option out"
        )
    return step


def _guide(step: Sampling) -> Guide | None:
    """Returns the first discriminator, or ensemble, that guides."""
    terms = (term for term in step.guidance if isinstance(term, DiscriminatorGuidance))
    return next(((term.discriminator, term.combine) for term in terms), None)


def _unseen(name: str, guide: Guide, count: int) -> Slice:
    """Returns fakes of the kind that a discriminator was trained on, without those that it was trained on."""
    weights = guide[0] if isinstance(guide[0], Weights) else guide[0][0]
    step = weights.step
    if not isinstance(step, TrainDiscriminator) or not isinstance(step.fake, Slice):
        raise ValueError(
            f"mechanism: expected the discriminator of arm {name!r} to be a TrainDiscriminator against one "
            f"slice of fakes, of which others can be drawn, found {weights.title}; measure with LogRatioPath "
            "and LossesByLevel, which take any"
        )
    fake = step.fake
    held = step.split("fake")[1] if step.bootstrap is None else 0
    if count <= held:
        return fake.step[fake.stop - count : fake.stop]
    return fake.step[fake.stop : fake.stop + count]

"""dg.beside(mechanism=N): the figures that stand beside the table of a recipe's arms."""

from __future__ import annotations

from typing import Any

import pytest
from steps.identities import DISC, FAKES, OTHER_DISC, REAL, SCORE
from steps.shipped import recipe

from dgflow import (
    BestOf,
    DiscriminatorGuidance,
    Evaluate,
    Generate,
    LogRatioPath,
    LossesByLevel,
    Regeneration,
    TrainDiscriminator,
    beside,
)
from dgflow.specs.step import Slice


def arm(*discriminators: Any, score: Any = None, combine: Any = "logits") -> tuple[Slice]:
    terms = [
        DiscriminatorGuidance(discriminator=each, combine=combine if isinstance(each, tuple) else "logits")
        for each in discriminators
    ]
    return (Generate(score=score or SCORE.last(), guidance=tuple(terms), seed=3)[:50],)


PLAIN = {"plain": arm()}


def figures(arms: dict[str, Any], count: int = 10) -> list[Any]:
    return [result.step for result in beside(PLAIN | arms, real=REAL[:100], mechanism=count)]


def test_the_path_of_the_discriminator_that_guides_the_losses_and_regenerated_images_of_all():
    path, losses, regeneration = figures({"guided": arm(DISC.last())})
    assert isinstance(path, LogRatioPath) and isinstance(losses, LossesByLevel)
    assert {name: part.rows for name, part in path.arms.items()} == {"plain": 10, "guided": 10}
    assert path.discriminator == DISC.last() and path.real == losses.real == REAL[90:100]
    assert losses.score == SCORE.last() and losses.discriminators == {"guided": DISC.last()}
    assert losses.fake == FAKES[90:100]  # held out by the training, of 100 fakes
    assert isinstance(regeneration, Regeneration) and regeneration.score == SCORE.last()
    assert {name: len(terms) for name, terms in regeneration.arms.items()} == {"plain": 0, "guided": 1}
    assert [step.cautions() for step in (path, losses, regeneration)] == [[], [], []]


def test_more_fakes_than_were_held_out_are_drawn_beyond_those_that_were_trained_on():
    _, losses, _ = figures({"guided": arm(DISC.last())}, count=30)
    assert losses.fake == FAKES[100:130]


def test_each_discriminator_or_ensemble_has_a_path_of_its_own():
    both = (DISC.last(), OTHER_DISC.last())
    arms = {"a": arm(DISC.last()), "b": arm(OTHER_DISC.last()), "both": arm(both, combine="probabilities")}
    first, second, third, single, ensemble, _ = figures(arms)
    assert [list(path.arms) for path in (first, second, third)] == [["plain", name] for name in arms]
    assert third.discriminator == both and third.combine == "probabilities"
    assert list(single.discriminators) == ["a", "b"]
    assert list(ensemble.discriminators) == ["both"] and ensemble.combine == "probabilities"


def test_arms_with_a_selection_are_left_out():
    """Their samples are not those of the sampler, score network and guidance that would be observed."""
    chosen = {"best": (Generate(score=SCORE.last(), selection=BestOf(discriminator=DISC.last()))[:50],)}
    path, _, regeneration = figures(chosen | {"guided": arm(DISC.last())})
    assert isinstance(path, LogRatioPath) and isinstance(regeneration, Regeneration)
    assert list(path.arms) == list(regeneration.arms) == ["plain", "guided"]
    (result,) = beside(PLAIN | chosen, real=REAL[:100], likelihood=10)
    assert list(result.step.arms) == ["plain"]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="expected an arm without a selection, .* found none of best"):
        beside(chosen, real=REAL[:100], likelihood=10)


def test_latents_are_looked_at_as_the_networks_see_them():
    target = recipe("imagenet256_dit")(mechanism=40)
    assert isinstance(target, Evaluate)
    path, losses, regeneration = (result.step for result in target.beside)
    assert isinstance(path, LogRatioPath) and isinstance(losses, LossesByLevel)
    assert isinstance(regeneration, Regeneration) and regeneration.real == path.real
    (training,) = (weights.step for weights in path.observer.guides)
    assert isinstance(training, TrainDiscriminator)
    assert path.real.step == training.real.step and path.real.stop == 1_281_167
    assert losses.cautions() == path.cautions() == []  # 1 % is held out
    assert all(step.gives_latents for step in path.observed.values())


@pytest.mark.parametrize(
    ("arms", "says"),
    [
        ({}, "mechanism: expected an arm that a discriminator guides, found none of plain"),
        ({"real": (REAL[:50],)}, "mechanism: expected samples of Generate.* in arm 'real'"),
        (
            {"a": arm(DISC.last()), "b": arm(DISC.last(), score=SCORE.epoch(1))},
            "mechanism: expected guided arms of one score network, found several, in the arms a, b",
        ),
        (
            {"a": arm(DISC.model_copy(update={"fake": (FAKES[:50], FAKES[50:100])}).last())},
            "against one slice of fakes, of which others can be drawn",
        ),
    ],
)
def test_arms_without_figures_of_mechanism_are_refused(arms, says):
    with pytest.raises(ValueError, match=says):
        figures(arms)


def test_regeneration_lets_each_sample_choose_its_steps():
    target = recipe("cifar10_lsgm")(mechanism=40, shared_block=100)
    *_, regeneration = (result.step for result in target.beside)  # type: ignore[attr-defined]
    assert isinstance(regeneration, Regeneration) and regeneration.sampler.block is None


def test_no_figures_are_asked_for_by_default():
    assert beside({"guided": arm(DISC.last())}, real=REAL[:100]) == ()

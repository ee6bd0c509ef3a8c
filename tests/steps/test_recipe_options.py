"""The options of the shipped recipes: each changes the step that it concerns and nothing before it."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from steps.shipped import recipe

from dgflow import DiscriminatorGuidance, Generate, Heun, TrainDiscriminator
from dgflow.specs.graph import graph
from dgflow.specs.step import Step

SAMPLED = {  # values other than the default; read where measured samples are made
    "guidance_weight": 0.5,
    "second_order_weight": 0.25,
    "tau_min": 0.03,
    "tau_max": 0.5,
    "after_timestep": 50,
    "steps": 10,
    "tolerance": 1e-3,
    "epoch": 2,
    "seeds": (7, 500_007),
}
TRAINED = {  # read where the discriminator is trained
    "reals": 3_000,
    "fakes": 4_000,
    "batch_size": 32,
    "discriminator_seed": 5,
    "times": {"importance": "log-uniform", "log-uniform": "importance"},
    "loss": "lsif",
    "features": {"frozen": "none", "none": "frozen"},
}
BESIDE = {"likelihood": 30, "mechanism": 30}  # read beside the samples
BY = {
    "likelihood": {"likelihood"},
    "mechanism": {"log-ratio-path", "losses-by-level", "regeneration"},
}  # these kinds
RECIPES = {
    "digits": {*SAMPLED, *TRAINED, *BESIDE} - {"after_timestep", "tolerance"},
    "plane": {*SAMPLED, *TRAINED} - {"after_timestep", "tolerance", "features"},
    "cifar10_edm": {*SAMPLED, *TRAINED, *BESIDE} - {"after_timestep", "tolerance"},
    "ffhq64_edm": {*SAMPLED, *TRAINED, *BESIDE} - {"after_timestep", "tolerance"},
    "cifar10_lsgm": {*SAMPLED, *TRAINED, "mechanism"}
    - {"after_timestep", "steps", "second_order_weight", "features"},
    "celeba64_soft_truncation": {*SAMPLED, *TRAINED, *BESIDE}
    - {"after_timestep", "steps", "second_order_weight"},
    "imagenet256_adm": {*SAMPLED, *TRAINED, *BESIDE} - {"tau_min", "tolerance", "second_order_weight"},
    "imagenet256_dit": {*SAMPLED, *TRAINED, "mechanism"} - {"tau_min", "tolerance", "second_order_weight"},
}
CASES = [(name, option) for name, options in RECIPES.items() for option in sorted(options)]


def other(name: str, option: str) -> Any:
    """Returns a value of the option that is not the recipe's default."""
    value = (SAMPLED | TRAINED | BESIDE)[option]
    default = inspect.signature(recipe(name)).parameters[option].default
    return value[default] if isinstance(value, dict) else value


def steps(name: str, **options: Any) -> dict[str, Step]:
    """Returns the steps by fingerprint, in execution order."""
    return {node.step.fingerprint: node.step for node in graph(recipe(name)(**options))}


def first_changes(before: dict[str, Step], after: dict[str, Step]) -> set[str]:
    """Returns the kinds of the steps that are new although all their inputs are old."""
    new = {key: step for key, step in after.items() if key not in before}
    return {
        step.kind
        for step in new.values()
        if all(reference.fingerprint in before for reference in step.inputs().values())
    }


@pytest.fixture(scope="module")
def published() -> dict[str, dict[str, Step]]:
    return {name: steps(name) for name in RECIPES}


@pytest.mark.parametrize(("name", "option"), CASES)
def test_an_option_changes_the_step_that_it_is_about_and_nothing_before_it(
    name: str, option: str, published: dict[str, dict[str, Step]]
) -> None:
    expected = {"generate" if option in SAMPLED else "train-discriminator"}
    expected = BY.get(option, expected)
    if (name, option) == ("digits", "features"):
        expected = {"train-classifier"}  # the features' classifier, which does not exist without them
    assert first_changes(published[name], steps(name, **{option: other(name, option)})) == expected


@pytest.mark.parametrize("name", RECIPES)
def test_all_options_of_a_recipe_combine(name: str, published: dict[str, dict[str, Step]]) -> None:
    found = steps(name, epochs=3, **{option: other(name, option) for option in RECIPES[name]})
    assert {step.kind for step in published[name].values()} <= {step.kind for step in found.values()}
    (training,) = (step for step in found.values() if step.kind == "train-discriminator")
    assert (training.epochs, training.batch_size, training.seed) == (3, 32, 5)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", RECIPES)
def test_more_epochs_go_on_with_the_training_that_is_there(
    name: str, published: dict[str, dict[str, Step]]
) -> None:
    assert steps(name, epochs=999).keys() == published[name].keys()


@pytest.mark.parametrize("name", RECIPES)
def test_an_epoch_that_guides_is_the_last_or_best_one_no_longer(name: str) -> None:
    (training,) = (step for step in steps(name, epoch=2).values() if step.kind == "train-discriminator")
    chosen = {
        reference.which  # type: ignore[union-attr]
        for step in steps(name, epoch=2).values()
        for reference in step.inputs().values()
        if reference.fingerprint == training.fingerprint
    }
    assert chosen == {"epoch:2"}


def test_guidance_on_digits_can_be_boosted(published: dict[str, dict[str, Step]]) -> None:
    assert first_changes(published["digits"], steps("digits", boosted=True)) == {"generate"}


@pytest.mark.parametrize("name", ["digits", "plane", "cifar10_edm"])
def test_a_discriminator_that_learns_from_scratch_can_be_told_of_edms_process(name: str) -> None:
    scratch = {} if name == "plane" else {"features": "none"}
    changed = first_changes(steps(name, **scratch), steps(name, **scratch, process="edm"))
    assert changed == {"train-discriminator"}
    if scratch:
        with pytest.raises(ValueError, match="omit the features"):
            steps(name, features="frozen", process="edm")


@pytest.mark.parametrize("name", ["digits", "plane"])
def test_the_gradient_is_matched_to_the_error_of_the_score_network_that_is_guided(name: str) -> None:
    found = steps(name, loss="bce+gradient")
    assert first_changes(steps(name), found) == {"train-discriminator"}
    (training,) = (step for step in found.values() if isinstance(step, TrainDiscriminator))
    guided = [step for step in found.values() if isinstance(step, Generate) and step.guidance]
    assert guided and all(step.score == training.score for step in guided)


@pytest.mark.parametrize(
    "name", ["digits", "cifar10_edm", "ffhq64_edm", "celeba64_soft_truncation", "cifar10_lsgm"]
)
def test_gain_chooses_weight_and_window_and_the_training_measures_it(name: str) -> None:
    found = steps(name, guidance_weight="gain", tau_min="gain", tau_max="gain").values()
    (training,) = (step for step in found if isinstance(step, TrainDiscriminator))
    guided = [step for step in found if isinstance(step, Generate) and step.guidance]
    for step in guided:
        assert training.gain_of == step.score
        (term,) = step.guidance
        assert isinstance(term, DiscriminatorGuidance)
        assert (term.weight, term.tau_min, term.tau_max) == ("gain",) * 3
        assert term.second_order_weight == ("gain" if isinstance(step.sampler, Heun) else 0.0)
    assert guided


@pytest.mark.parametrize("name", [name for name, options in RECIPES.items() if "features" in options])
def test_features_of_a_recipe_can_be_fine_tuned_from_the_classifier_that_is_frozen_otherwise(
    name: str, published: dict[str, dict[str, Step]]
) -> None:
    def trained(steps: dict[str, Step]) -> list[Any]:
        return [step for step in steps.values() if step.kind == "train-discriminator"]

    (tuned,) = trained(steps(name, features="fine-tuned"))
    (frozen,) = trained(steps(name, features="frozen"))
    assert tuned.fine_tune and tuned.features == frozen.features
    assert tuned.architecture.frozen_features is None
    assert tuned.model_copy(update={"fine_tune": False}).fingerprint == frozen.fingerprint

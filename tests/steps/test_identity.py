"""The fields that are part of a step's identity and those that are not, and the pinned fingerprints of the
shipped recipes."""

import json
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import ValidationError
from steps.identities import (
    DISC,
    FAKES,
    FEATURES,
    FILE,
    GUIDED,
    INSTANCES,
    JUDGE,
    MATCHED_DISC,
    MEASURE,
    MIXED_DISC,
    NOISY,
    OTHER,
    REAL,
    SCORE,
)
from steps.shipped import built

from dgflow import (
    Boost,
    ClassifierFree,
    ClassifierGuidance,
    DiscriminatorGuidance,
    EpsilonScaling,
    Evaluate,
    Features,
    Gain,
    GaussianMixture,
    Generate,
    Heun,
    ImportImages,
    Likelihood,
    LogRatioPath,
    LossesByLevel,
    Merge,
    MixtureScore,
    NetworkGuidance,
    Pretrained,
    RatioWeighting,
    Rejection,
    Restart,
    RestartInterval,
    Switch,
    TrainClassifier,
    TrainDiscriminator,
    TrainScore,
    Translate,
)
from dgflow.diffusion.sampler_specs import SamplerSpec
from dgflow.diffusion.selection_specs import SelectionSpec
from dgflow.networks.roles import AutoencoderSpec, DiscriminatorSpec, HeadSpec, ScoreNetworkSpec
from dgflow.specs.spec import LATER, PLACEMENT, Spec
from dgflow.specs.step import Step
from dgflow.steps.judging.measure import Measure
from dgflow.steps.judging.statistics import Statistics
from dgflow.steps.sources.image_set import ImageSet, StatisticsFile
from dgflow.steps.sweeping.sweep import Combination, Sweep

ROOT = Path(__file__).resolve().parents[2]


def _identity(made: Spec) -> str:
    """Returns the fingerprint of a step that contains `made`."""
    if isinstance(made, GaussianMixture):
        made = MixtureScore(mixture=made)
    if isinstance(made, HeadSpec):
        return TrainDiscriminator(real=REAL[:100], fake=FAKES[:100], network=made).fingerprint
    if isinstance(made, AutoencoderSpec):
        return Pretrained(source="net.safetensors", network=made, image_size=8).fingerprint
    if isinstance(made, ScoreNetworkSpec | DiscriminatorSpec):
        return Pretrained(source="net.safetensors", network=made, image_size=8, num_classes=3).fingerprint
    if isinstance(made, SelectionSpec):
        return Generate(score=SCORE.last(), selection=made).fingerprint
    if isinstance(made, RestartInterval):
        made = Restart(restarts=(made,))
    if isinstance(made, SamplerSpec):
        return Generate(score=SCORE.last(), sampler=made, shard_size=10).fingerprint
    if isinstance(made, Boost):
        made = DiscriminatorGuidance(discriminator=DISC.best(), boost=made)
    if isinstance(made, RatioWeighting):
        made = SCORE.model_copy(update={"weighting": made})
    if isinstance(made, Switch):
        made = ClassifierFree(scale=made)
    if isinstance(made, ClassifierFree | NetworkGuidance | EpsilonScaling):
        return Generate(score=FILE.weights(), guidance=(made,)).fingerprint
    if isinstance(made, DiscriminatorGuidance | ClassifierGuidance):
        made = made.model_copy(update={"tau_min": None}) if getattr(made, "after_timestep", None) else made
        return Generate(
            score=SCORE.last(), guidance=(ClassifierGuidance(classifier=NOISY.last()), made)
        ).fingerprint
    if isinstance(made, ImageSet):
        made = FEATURES.model_copy(update={"samples": made})
    if isinstance(made, Combination):
        made = Sweep(combinations=(made,))
    if isinstance(made, StatisticsFile):
        made = MEASURE.model_copy(update={"statistics": made})
    assert isinstance(made, Step)
    return made.fingerprint


# Follow from another field, or are refused.
FIXED = {(Merge, "network"), (Rejection, "discriminator"), (Translate, "selection")}
FIELDS = [
    (kind, name)
    for kind in OTHER
    for name, info in kind.model_fields.items()
    if PLACEMENT not in info.metadata and (kind, name) not in FIXED
]


BESIDE = {  # another instance, if a field requires others
    ("TrainDiscriminator", "fake_shares"): MIXED_DISC,
    ("TrainDiscriminator", "score"): MATCHED_DISC,
    ("TrainDiscriminator", "gradient_weight"): MATCHED_DISC,
}


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=lambda value: getattr(value, "__name__", value))
def test_changing_any_field_changes_the_fingerprint(kind, name):
    changed = {"noise": "none"} if (kind, name) == (TrainClassifier, "noise") else {name: OTHER[kind][name]}
    made = BESIDE.get((kind.__name__, name), INSTANCES[kind])
    if name == "process":
        made = made.model_copy(update={"features": None})  # which know only one process
    fields = {field: getattr(made, field) for field in kind.model_fields}
    assert _identity(kind(**(fields | changed))) != _identity(made)


def test_a_copy_with_another_field_has_another_fingerprint_and_is_validated():
    assert SCORE.fingerprint != SCORE.model_copy(update={"P_mean": 9.0}).fingerprint
    with pytest.raises(ValidationError, match="even batch size"):
        DISC.model_copy(update={"batch_size": 7})


@pytest.mark.parametrize(
    ("made", "changed"),
    [
        (SCORE, dict(epochs=99)),
        (JUDGE, dict(epochs=99)),
        (DISC, dict(epochs=99)),
        (FAKES, dict(batch_size=3)),
    ],
    ids=["score epochs", "classifier epochs", "discriminator epochs", "sampling batch"],
)
def test_how_much_and_where_are_not_identity(made, changed):
    fields = {field: getattr(made, field) for field in type(made).model_fields}
    assert type(made)(**(fields | changed)).fingerprint == made.fingerprint


def test_a_later_field_is_identity_only_where_it_differs_from_its_default():
    class Before(Spec):
        width: int = 8

    class After(Before):
        depth: Annotated[int, LATER] = 2

    assert After().plain_fields() == Before().plain_fields() == {"width": 8}
    assert After(depth=2).plain_fields() == {"width": 8}
    assert After(depth=3).plain_fields() == {"width": 8, "depth": 3}


def test_every_field_that_is_not_identity_is_known():
    kinds = (
        ImportImages,
        TrainScore,
        TrainClassifier,
        TrainDiscriminator,
        Generate,
        Features,
        Statistics,
        Measure,
        Evaluate,
        Gain,
        Likelihood,
        LogRatioPath,
        LossesByLevel,
        Pretrained,
    )
    assert {
        name for kind in kinds for name, info in kind.model_fields.items() if PLACEMENT in info.metadata
    } == {"epochs", "batch_size"}
    # External files are identified by their content, not by their location.
    assert {name for name, info in ImageSet.model_fields.items() if PLACEMENT in info.metadata} == {
        "source",
        "seed",
        "seeding",
        "start",
    }
    assert {name for name, info in StatisticsFile.model_fields.items() if PLACEMENT in info.metadata} == {
        "source"
    }
    assert (
        PLACEMENT not in TrainScore.model_fields["batch_size"].metadata
    )  # part of identity for a training, but not for sampling


def test_the_fingerprint_of_every_shipped_recipe_is_frozen():
    frozen = json.loads((ROOT / "tests" / "frozen" / "fingerprints.json").read_text())
    names = {path.stem for path in (ROOT / "workflows").glob("*.py")}
    assert {key.split()[0] for key in frozen["recipes"]} == names
    own_classifier = built("dit-own-classifier").fingerprint  # frozen in another precision only
    assert own_classifier == "4e41f697282affc10f299f0647e17d0845e1d3a2a0e05d63f97225bec3cbc0a6"


def test_a_field_that_does_not_exist_is_refused_by_name():
    with pytest.raises(ValidationError, match="stpes"):
        Heun(stpes=3)  # type: ignore[call-arg]


def test_a_network_that_guides_may_not_judge():
    guiding_judge = TrainClassifier(real=REAL[:100], noise="none")
    disc = TrainDiscriminator(real=REAL[:100], fake=FAKES[:100], features=guiding_judge.last())
    guided = Generate(score=SCORE.last(), guidance=(DiscriminatorGuidance(discriminator=disc.best()),))
    with pytest.raises(ValidationError, match="a network that guides may not judge"):
        Evaluate(
            arms={"guided": (guided[:100],)},
            reference=REAL[100:200],
            features=guiding_judge.last(),
            floor=REAL[:100],
        )


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: REAL[5:5], "start < stop"),
        (lambda: REAL[::2], "step\\[:1000\\]"),
        (lambda: SCORE.epoch(11), "between 1 and 10"),
        (lambda: TrainScore(real=REAL[:100], held_out=0.0).best(), "held_out=0"),
        (lambda: TrainDiscriminator(real=REAL[:100], fake=FAKES[:100], batch_size=7), "even batch size"),
        (
            lambda: Evaluate(
                arms={"a": (GUIDED[:10],)}, reference=REAL[:50], features=JUDGE.last(), floor=REAL[40:90]
            ),
            "overlap",
        ),
        (
            lambda: Evaluate(
                arms={"a": (GUIDED[:10],), "b": (FAKES[:20],)},
                reference=REAL[:50],
                features=JUDGE.last(),
                floor=REAL[60:90],
            ),
            "one size",
        ),
        (
            lambda: Evaluate(
                arms={"a": (GUIDED[:10],)},
                reference=REAL[:50],
                features=TrainScore(real=REAL[:100], seed=4).last(),
                floor=REAL[60:90],
            ).inputs(),
            "feature network",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_was_expected(build, says):
    with pytest.raises((ValidationError, ValueError), match=says):
        build()

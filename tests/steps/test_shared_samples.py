"""Arms whose slices are the same samples: refused or warned of when the recipe is built."""

import pytest
from steps.identities import DECODED, DISC, ENCODED, HIERARCHICAL, REAL
from steps.judging import INCEPTION, SCORE, image_set

from dgflow import (
    Encode,
    Evaluate,
    Generate,
    Heun,
    ImportImages,
    RatioWeighting,
    TrainDiscriminator,
    TrainScore,
)
from dgflow.diffusion.guidance_specs import DiscriminatorGuidance
from dgflow.networks.adm.spec import ADMEncoder
from dgflow.steps.judging.shared_samples import seen, shared, trained_on


def generate(seed=0, **fields):
    return Generate(score=SCORE, sampler=Heun(steps=2), seed=seed, **fields)


def evaluate(**arms):
    return Evaluate(arms=arms, reference=image_set("reference", 200), features=INCEPTION, protocol="edm")


@pytest.mark.parametrize(
    ("slices", "common"),
    [
        ((generate()[:100],) * 3, 100),
        ((generate()[:100], generate()[99:199]), 1),
        ((generate()[:100], generate(shard_size=100)[:100]), 100),
        ((generate()[:100], generate(precision="bfloat16")[50:150]), 50),
    ],
)
def test_an_arm_with_the_same_samples_twice_is_refused(slices, common):
    with pytest.raises(
        ValueError, match=f"arm 'plain': .* share {common} of 100 samples: their spread would be too small"
    ):
        evaluate(plain=slices)


def test_edm_seeds_that_share_all_samples_but_one_are_refused_with_those_that_share_none():
    slices = tuple(generate(seed, seeding="edm")[:50_000] for seed in (0, 1, 2))
    with pytest.raises(ValueError, match=r"share 49,999 of 50,000 samples; use the seeds 0, 50000, 100000"):
        evaluate(plain=slices)


@pytest.mark.parametrize(
    "slices",
    [
        tuple(generate(seed, seeding="edm")[:50_000] for seed in (0, 50_000, 100_000)),
        tuple(generate(seed)[:50_000] for seed in (0, 1, 2)),
        (generate()[:100], generate()[100:200]),
        (generate(seeding="edm")[:100], generate()[:100]),
    ],
)
def test_other_seeds_and_indices_are_taken_and_two_arms_may_have_the_same(slices):
    evaluate(plain=slices, guided=slices)


def test_samples_of_another_sampler_are_others():
    assert shared(generate()[:10], Generate(score=SCORE, sampler=Heun(steps=3))[:10]) == 0


@pytest.mark.parametrize(("seed", "start", "common"), [(1, 0, 60), (1, 40, 20), (1, 60, 0), (2, 0, 0)])
def test_an_arm_of_the_discriminators_own_fakes_is_warned_of(tmp_path, seed, start, common):
    images = ImportImages(source=str(tmp_path), num_classes=10, image_size=2, num_images=1000)
    training = TrainDiscriminator(
        real=images[:100], fake=generate(1)[:60], network=ADMEncoder(), batch_size=16, epochs=1
    )
    guidance = (DiscriminatorGuidance(discriminator=training.last()),)
    target = evaluate(
        plain=(generate(seed)[start : start + 60],), guided=(generate(seed, guidance=guidance)[:60],)
    )
    cautions = target.cautions()
    assert len(cautions) == bool(common)
    assert all(f"arm 'plain': {common} of the 60 samples" in line for line in cautions)


def test_fakes_that_were_decoded_and_encoded_again_are_the_same_samples():
    again = Encode(images=DECODED[10:90], vae=HIERARCHICAL)
    training = TrainDiscriminator(
        real=ENCODED[:40], fake=again[:40], network=ADMEncoder(), batch_size=16, epochs=1, conditional=False
    )
    (line,) = trained_on("plain", (DECODED[30:100],), [training])
    assert "arm 'plain': 20 of the 70 samples" in line


FIRST = TrainScore(real=REAL[:100])
FURTHER = TrainScore(real=REAL[50:150], start=FIRST.last(), held_out=0)
WEIGHTED = TrainScore(
    real=REAL[500:600], weighting=RatioWeighting(discriminator=DISC.last(), divergence="reverse-kl")
)
ON_FEATURES = DISC.model_copy(update={"real": REAL[500:600]})


@pytest.mark.parametrize(
    ("training", "known"),
    [(FIRST, 90), (FURTHER, 150), (WEIGHTED, 90), (ON_FEATURES, 90)],
    ids=["itself", "went on from", "weighted by", "on features of"],
)
def test_images_are_known_to_a_network_by_what_stands_behind_it_each_counted_once(training, known):
    """Shares of a tenth are held out; the weighting discriminator's features were trained on as many images
    as itself."""
    assert seen(training.last(), REAL[:300]) == known

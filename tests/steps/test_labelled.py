"""Samples without labels of data that has classes: steps made from them have no labels either, and steps that
need labels are refused when the recipe is built."""

from __future__ import annotations

import pytest
from steps.identities import COLOUR, DISC, FAKES, JUDGE, REAL, SCORE

import dgflow as dg

PLAIN = dg.Generate(score=SCORE.model_copy(update={"conditional": False}).last())
TRANSLATED = dg.Translate(score=PLAIN.score, source=PLAIN[:100], start=0.4)


def test_labels_are_those_of_what_a_step_is_made_from():
    assert REAL.labelled and FAKES.labelled and not PLAIN.labelled
    assert PLAIN.shape.num_classes == 3
    vae = dg.Pretrained(source="vae.safetensors", network=dg.StableDiffusionVAE(), image_size=16).weights()
    for images in (COLOUR, COLOUR.model_copy(update={"num_classes": 0})):
        latents = dg.Encode(images=images[:9], vae=vae)
        assert latents.labelled is dg.Decode(latents=latents[:9], vae=vae).labelled is images.labelled
    of_real = TRANSLATED.model_copy(update={"source": REAL[:100]})
    assert of_real.labelled and not TRANSLATED.labelled
    assert not of_real.model_copy(update={"labels": "dropped"}).labelled


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda part: DISC.model_copy(update={"fake": part}), "fake: .*conditional=False"),
        (lambda part: DISC.model_copy(update={"fake": (FAKES[:100], part)}), r"fake\.1: .*conditional=False"),
        (lambda part: SCORE.model_copy(update={"real": part}), "real: .*conditional=False"),
        (
            lambda part: SCORE.model_copy(update={"real": part, "start": SCORE.last(), "seed": 1}),
            r"real: .*the score network \(start\) needs",
        ),
        (lambda part: JUDGE.model_copy(update={"real": part}), "real: .*take images with labels"),
        (lambda part: dg.Gain(score=SCORE.last(), real=part, discriminator=DISC.last()), "real: "),
        (
            lambda part: dg.Translate(score=SCORE.last(), source=part, start=0.4),
            "source: .*name the class of the results",
        ),
    ],
)
@pytest.mark.parametrize("step", [PLAIN, TRANSLATED])
def test_what_is_told_labels_refuses_samples_without(step, make, says):
    with pytest.raises(ValueError, match=says):
        make(step[:100])


def test_what_is_told_no_labels_takes_them():
    for fields in ({"fake": PLAIN[:100]}, {"fake": TRANSLATED[:100]}):
        DISC.model_copy(update=fields | {"conditional": False})
    SCORE.model_copy(update={"real": PLAIN[:100], "conditional": False})
    with pytest.raises(ValueError, match="expected images with classes"):
        dg.OfClasses(images=PLAIN[:100], classes=(0,), count=1)

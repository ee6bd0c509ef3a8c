"""Warnings, before a run, of settings that do not fit together."""

from __future__ import annotations

import pytest
from steps.identities import DISC, FAKES, MATCHED_DISC, SCORE

import dgflow as dg

TWICE = dg.EpsilonScaling(factor=1.01, twice=True)
BY_GAIN = dg.DiscriminatorGuidance(
    discriminator=DISC.model_copy(update={"gain_of": SCORE.last()}).last(), weight="gain"
)


@pytest.mark.parametrize(("sampler", "lines"), [(dg.DDIM(), 0), (dg.DDPM(), 1), (dg.Heun(), 1)])
def test_noise_scaled_twice_has_an_effect_with_ddim_alone(sampler, lines):
    guidance = (TWICE, dg.DiscriminatorGuidance(discriminator=DISC.last()))
    found = dg.Generate(score=SCORE.last(), sampler=sampler, guidance=guidance).cautions()
    assert len(found) == lines and all("twice=True has an effect only with DDIM" in each for each in found)


@pytest.mark.parametrize(
    "correction", [dg.EpsilonScaling(factor=1.01), dg.NetworkGuidance(network=SCORE.epoch(1), weight=2.0)]
)
def test_gain_was_not_measured_of_a_corrected_score_network(correction):
    (line,) = dg.Generate(score=SCORE.last(), guidance=(correction, BY_GAIN)).cautions()
    assert "settings of guidance.1" in line
    assert dg.Generate(score=SCORE.last(), guidance=(BY_GAIN,)).cautions() == []


def test_a_gradient_is_matched_to_the_network_that_made_the_fakes():
    assert MATCHED_DISC.cautions() == []
    other = FAKES.model_copy(update={"score": SCORE.epoch(1)})
    mixed = MATCHED_DISC.model_copy(update={"fake": (FAKES[:100], other[:100])})
    (line,) = mixed.cautions()
    assert "fake.1 is not from its score network" in line

"""The sample grids of latent systems: decoded images with the seed and the indices of the samples behind
them."""

from __future__ import annotations

import numpy as np
import pytest
from report.fake_root import SHARD, fill, new_store

import dgflow as dg
from dgflow.networks.stable_diffusion.spec import StableDiffusionVAE
from dgflow.report.images import grids
from dgflow.report.summary import summarise
from dgflow.specs.step import Slice
from dgflow.steps.decode import Decode

VAE = dg.Pretrained(
    source="vae", network=StableDiffusionVAE(block_out_channels=(32, 32, 32)), image_size=16, channels=1
)
DIT = dg.Pretrained(source="dit", network=dg.DiT(depth=1), image_size=4, channels=4, num_classes=10)


def latents(scale: float) -> dg.Generate:
    return dg.Generate(
        score=DIT.weights(),
        sampler=dg.DDPM(),
        guidance=(dg.ClassifierFree(scale=scale),),
        seed=7,
        shard_size=SHARD,
    )


@pytest.fixture
def real(tmp_path):
    np.savez(tmp_path / "digits.npz", image=np.zeros((1, 16, 16), np.uint8), label=np.zeros(1))
    return dg.ImportImages(
        source=str(tmp_path / "digits.npz"), num_classes=10, image_size=16, channels=1, shard_size=SHARD
    )


def evaluate(real: dg.ImportImages, **arms: Slice) -> dg.Evaluate:
    judge = dg.TrainClassifier(real=real[:150], network=dg.ADMEncoder(model_channels=32, pool="adaptive"))
    named = {name: (part,) for name, part in arms.items()}
    return dg.Evaluate(arms=named, reference=real[150:300], features=judge.last(), floor=real[:150])


def test_decoded_arms_are_shown_with_the_seed_and_the_indices_of_their_samples(real):
    arms = {
        name: Decode(latents=latents(scale)[100:300], vae=VAE.weights(), shard_size=SHARD).all()
        for name, scale in (("unguided", 1.0), ("guided", 1.5))
    }
    target, store = evaluate(real, **arms), new_store()
    fill(target, store)
    found = grids(summarise(target, store), store)
    assert [item["caption"] for item in found["items"]] == ["seed 7, indices 100 to 163"] * 2 + [
        "indices 150 to 213"
    ]
    assert found["paired"] and all(item["uri"].startswith("data:image/png") for item in found["items"])


def test_latents_are_refused_where_they_would_be_measured_and_shown(real):
    with pytest.raises(ValueError, match="found the latents of generate seed 7.*: decode them first"):
        evaluate(real, unguided=latents(1.0)[:150])

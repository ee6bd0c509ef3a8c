"""DiT and LSGM at toy size, from images to decoded samples: real latents are encoded, fake ones stay as the
sampler made them."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from inprocess import complete
from steps.toy_networks import HEAD, HIERARCHICAL, SCORES, SD, pretrained

import dgflow as dg
from dgflow.engine.execute import result_of
from dgflow.engine.plan import plan
from dgflow.engine.root import Root
from dgflow.steps.decode import Decode
from dgflow.steps.encode import Encode
from dgflow.store.memory import MemoryStore


def imported(folder: Path) -> dg.ImportImages:
    random = np.random.default_rng(1)
    np.savez(
        folder / "images.npz",
        image=random.integers(0, 256, (24, 16, 16, 3), np.uint8),
        label=np.arange(24) % 3,
    )
    return dg.ImportImages(
        source=str(folder / "images.npz"), num_classes=3, image_size=16, channels=3, shard_size=8
    )


def dit(folder: Path) -> tuple[dg.Generate, dg.Generate, Decode]:
    """Returns unguided latents, guided latents, and their images."""
    vae = pretrained(folder, "vae", network=SD, image_size=16)
    shape: dict[str, Any] = {"image_size": 4, "channels": 4, "num_classes": 3}
    score = pretrained(folder, "DiT", network=dg.DiT(hidden_size=32, depth=1, num_heads=2), **shape)
    classifier = pretrained(
        folder, "classifier", network=HEAD.model_copy(update={"time": "ddpm-linear"}), **shape
    )
    generate = dg.Generate(
        score=score.weights(),
        sampler=dg.DDPM(respacing="4"),
        guidance=(dg.ClassifierFree(scale=1.5),),
        seed=1,
        shard_size=8,
    )
    disc = dg.TrainDiscriminator(
        real=Encode(images=imported(folder)[:24], vae=vae.weights(), shard_size=8).all(),
        fake=generate[:24],
        network=HEAD,
        features=classifier.weights(),
        epochs=2,
        batch_size=8,
        held_out=0.25,
        gain_of=score.weights(),
    )
    guided = generate.model_copy(update={"guidance": dg.dit_gpp(disc.last())})
    plain = generate.model_copy(update={"guidance": dg.dit_gpp(disc.last())[:1]})
    return plain, guided, Decode(latents=guided[:12], vae=vae.weights(), shard_size=8)


def lsgm(folder: Path) -> tuple[dg.Generate, dg.Generate, Decode]:
    vae = pretrained(folder, "vae", network=HIERARCHICAL, image_size=16)
    score = pretrained(folder, "prior", **SCORES["LSGMPrior"])
    plain = dg.Generate(
        score=score.weights(), sampler=dg.RK45(tolerance=1e-2, tau_min=1e-3), seed=1, shard_size=8
    )
    disc = dg.TrainDiscriminator(
        real=Encode(images=imported(folder)[:24], vae=vae.weights(), draws=2, shard_size=8).all(),
        fake=plain[:24],
        network=HEAD,
        conditional=False,
        epochs=2,
        batch_size=8,
        held_out=0.25,
        gain_of=score.weights(),
    )
    guide = dg.DiscriminatorGuidance(discriminator=disc.last(), weight=2.0, tau_min=0.1)
    guided = plain.model_copy(update={"guidance": (guide,)})
    return plain, guided, Decode(latents=guided[:12], vae=vae.weights(), shard_size=8)


@pytest.mark.parametrize("system", [dit, lsgm])
def test_a_latent_system_goes_from_images_to_decoded_guided_samples(tmp_path, system):
    plain, guided, decoded = system(tmp_path)
    store = MemoryStore(uuid4().hex)
    inputs = complete(decoded, store)
    images, latents = decoded.shard_builder(inputs)(0, 12), inputs.rows("latents")
    assert images["image"].shape == (12, 16, 16, 3) and images["image"].dtype == np.uint8
    assert np.isfinite(latents["log_ratio"]).all() and (images["log_ratio"] == latents["log_ratio"]).all()
    unguided = plain.shard_builder(complete(plain, store))(0, 8)
    assert (unguided["label"] == latents["label"][:8]).all() and (
        unguided["latent"] != latents["latent"][:8]
    ).any()
    assert all(state.action == "reuse" for state in plan(decoded, store)[:-1])


@pytest.mark.parametrize("system", [dit, lsgm])
def test_the_discriminator_reads_encoded_images_and_the_samplers_own_latents(tmp_path, system):
    plain, guided, _ = system(tmp_path)
    disc, store = guided.guidance[-1].discriminator.step, MemoryStore(uuid4().hex)
    inputs = complete(disc, store)
    made = disc.fake.step.shard_builder(complete(disc.fake.step, store))(8, 16)
    assert (
        inputs.rows("fake", None, 8, 16)["latent"] == made["latent"]
    ).all()  # no codec, decoder or encoder in between
    assert set(inputs.rows("real")) == {"index", "label", *disc.real.step.columns}
    # Gain in training and Gain as a step draw the same latents of the same held-out images.
    gain = dg.Gain(score=disc.gain_of, discriminator=disc.last(), real=disc.real.step[18:24])
    complete(gain, store)
    steps = Root(store).step_store(disc)
    recorded = steps.receipt(steps.key("epochs", 2, inputs.digests)).metrics["gain_curve"]
    own = json.loads(result_of(gain, store))["gain_curve"]
    assert recorded["images"] == own["images"] == 6 and recorded["energy"] > 0
    assert (own["agreement"], own["energy"]) == pytest.approx(
        (recorded["agreement"], recorded["energy"]), rel=1e-3, abs=1e-3 * recorded["energy"]
    )

"""Latents of images and images of latents: the autoencoder's output, both flips, and refusals when a recipe
is built."""

import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import torch
from inprocess import complete
from safetensors.torch import load_file, save_file
from steps.toy_networks import HEAD, HIERARCHICAL, SCORES, SD, pretrained

import dgflow as dg
from dgflow.diffusion import noise
from dgflow.engine.root import Root
from dgflow.networks.roles import AutoencoderSpec
from dgflow.networks.stable_diffusion.file import OLD_ATTENTION_NAMES
from dgflow.specs.bound import Bound
from dgflow.specs.network import DataShape
from dgflow.steps.decode import Decode
from dgflow.steps.encode import Encode
from dgflow.store.memory import MemoryStore
from dgflow.store.open import open_store
from dgflow.store.shards import Columns

SIDE, COUNT = 16, 10
PIXELS = np.random.default_rng(1).integers(0, 256, (COUNT, SIDE, SIDE, 3), np.uint8)
HALF = 2.0**-11  # largest relative error of float16


def imported(folder: Path, pixels: np.ndarray = PIXELS) -> dg.ImportImages:
    path = folder / "images.npz"
    np.savez(path, image=pixels, label=np.arange(len(pixels)) % 3)
    return dg.ImportImages(
        source=str(path), num_classes=3, image_size=pixels.shape[1], channels=pixels.shape[3], shard_size=4
    )


def vae(folder: Path, spec: AutoencoderSpec = SD, **fields: Any) -> dg.Pretrained:
    return pretrained(folder, type(spec).__name__, **({"network": spec, "image_size": SIDE} | fields))


def encode(folder: Path, spec: AutoencoderSpec = SD, **fields: Any) -> Encode:
    return Encode(images=imported(folder)[:COUNT], vae=vae(folder, spec).weights(), batch_size=4, **fields)


def samples(folder: Path, **fields: Any) -> dg.Generate:
    """Returns latents of the shape of `SD`'s."""
    score = pretrained(
        folder,
        "DiT",
        network=dg.DiT(hidden_size=32, depth=1, num_heads=2),
        channels=4,
        num_classes=3,
        image_size=4,
    )
    return dg.Generate(score=score.weights(), sampler=dg.DDPM(respacing="2"), shard_size=4, **fields)


def network_of(weights: dg.Pretrained) -> Any:
    network: Any = weights.build(Bound())
    weights.trained_part(network).load_state_dict(load_file(weights.source))
    return network.eval()


def made(step: Any) -> tuple[Columns, Bound]:
    """Returns all rows of a step, and its inputs."""
    inputs = complete(step, MemoryStore(uuid4().hex))
    return step.shard_builder(inputs)(0, step.length), inputs


def scaled(images_BHWC: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images_BHWC.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def test_encoded_moments_are_the_autoencoders_own_for_the_image_and_for_its_mirror_image(tmp_path):
    step = encode(tmp_path)
    rows, inputs = made(step)
    read, network = inputs.rows("images"), network_of(vae(tmp_path))
    assert (rows["label"] == read["label"]).all() and (rows["index"] == np.arange(COUNT)).all()
    for images, flipped in ((read["image"], ""), (read["image"][:, :, ::-1], "_flipped")):
        moments = network.autoencoder.quant_conv(network.autoencoder.encoder(scaled(images)))
        for name, theirs in (("mean", moments[:, :4]), ("std", (moments[:, 4:] / 2).exp())):
            ours = rows[name + flipped]
            assert ours.dtype == np.float16 and ours.shape == (COUNT, 4, 4, 4)
            np.testing.assert_allclose(
                ours.astype(np.float32), 0.18215 * theirs.numpy(), rtol=2 * HALF, atol=1e-6
            )


@torch.no_grad()
def test_draws_of_a_hierarchical_autoencoder_are_those_of_its_own_with_noise_by_seed_and_index(tmp_path):
    step = encode(tmp_path, HIERARCHICAL, draws=2, seed=5)
    rows, inputs = made(step)
    images, network = inputs.rows("images")["image"], network_of(vae(tmp_path, HIERARCHICAL))
    assert rows["latent"].shape == (COUNT, 4, 6, 8, 8) and rows["latent"].dtype == np.float16
    for number, pixels in enumerate((images, images, images[:, :, ::-1], images[:, :, ::-1])):
        normal = noise.standard_normal(
            5, torch.arange(COUNT), (6, 8, 8), step=number, draw=noise.POSTERIOR
        ).float()
        theirs = network.encode((scaled(pixels) + 1) / 2, [normal])[0].numpy()
        np.testing.assert_allclose(
            rows["latent"][:, number].astype(np.float32), theirs, rtol=2 * HALF, atol=2e-5
        )
    assert (rows["latent"][:, 0] != rows["latent"][:, 1]).any()


def test_mirror_images_trade_places_with_their_flips(tmp_path):
    twins = np.concatenate([PIXELS[:1], PIXELS[:1, :, ::-1]])
    step = Encode(images=imported(tmp_path, twins)[:2], vae=vae(tmp_path).weights())
    rows, _ = made(step)
    np.testing.assert_allclose(
        rows["mean"][::-1].astype(np.float32),
        rows["mean_flipped"].astype(np.float32),
        rtol=4 * HALF,
        atol=1e-6,
    )
    assert (
        abs(rows["mean"][0, :, :, ::-1] - rows["mean_flipped"][0]).max() > 1e-3
    )  # the flip of a latent differs from the latent of the flip


@torch.no_grad()
@pytest.mark.parametrize("spec", [SD, HIERARCHICAL], ids=lambda spec: type(spec).__name__)
def test_decoded_images_are_the_autoencoders_own_with_label_and_log_ratio_carried_along(tmp_path, spec):
    channels, side = (4, 4) if spec is SD else (6, 8)
    fields: dict[str, Any] = (
        SCORES["LSGMPrior"]
        if spec is HIERARCHICAL
        else {"network": dg.DiT(hidden_size=32, depth=1, num_heads=2)}
    )
    fields = fields | {
        "channels": channels,
        "image_size": side,
        "num_classes": 0 if spec is HIERARCHICAL else 3,
    }
    discriminates: dict[str, Any] = fields | {"network": dg.Discriminator(head=HEAD)}
    discriminator = pretrained(tmp_path, "discriminator", **discriminates)
    sampler = dg.Heun(steps=2, sigma_max=10.0, sigma_min=0.1)
    guide = dg.DiscriminatorGuidance(discriminator=discriminator.weights())
    latents = dg.Generate(
        score=pretrained(tmp_path, "score", **fields).weights(),
        sampler=sampler,
        guidance=(guide,),
        shard_size=4,
    )
    rows, inputs = made(Decode(latents=latents[2:9], vae=vae(tmp_path, spec).weights(), batch_size=3))
    read = inputs.rows("latents")
    images = network_of(vae(tmp_path, spec)).decode(torch.from_numpy(read["latent"]).float())
    in_255 = (
        255 * images if spec is HIERARCHICAL else 127.5 * images + 127.5
    )  # NVAE's own images are in [0, 1]
    expected = np.floor(in_255.numpy() + 0.5).clip(0, 255).transpose(0, 2, 3, 1)
    assert rows["image"].dtype == np.uint8 and rows["image"].shape == (7, SIDE, SIDE, 3)
    assert (
        abs(rows["image"] - expected).max() <= 1 and (rows["image"] == expected).mean() > 0.999
    )  # values that round in the other direction
    assert (rows["index"] == np.arange(7)).all()
    assert (rows["label"] == read["label"]).all() and (rows["log_ratio"] == read["log_ratio"]).all()


@torch.no_grad()
def test_decoding_what_was_encoded_gives_the_reconstruction_of_the_posterior_mean(tmp_path):
    encoded = encode(tmp_path)
    rows, _ = made(Decode(latents=encoded.all(), vae=vae(tmp_path).weights()))
    network, images = network_of(vae(tmp_path)), made(encoded)[1].rows("images")["image"]
    expected = network.autoencoder(scaled(images), sample_posterior=False).sample
    difference = rows["image"] - (127.5 * expected + 128).floor().clamp(0, 255).permute(0, 2, 3, 1).numpy()
    assert abs(difference).max() <= 1


@torch.no_grad()
def test_edm2_s_latents_are_normalised_by_channel_and_its_pixels_cut_off(tmp_path):
    spec = dg.EDM2VAE(**SD.model_dump(exclude={"scale"}))
    encoded = encode(tmp_path, spec)
    latents, inputs = made(encoded)
    decoded, _ = made(Decode(latents=encoded.all(), vae=vae(tmp_path, spec).weights()))
    network, images = network_of(vae(tmp_path, spec)).autoencoder, inputs.rows("images")["image"]
    raw = network.encode(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).latent_dist  # in [0, 1]
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.raw_mean, spec.raw_std))
    for name, expected in (("mean", (raw.mean - mean) / std / 2), ("std", raw.std / std / 2)):
        np.testing.assert_allclose(
            latents[name].astype(np.float32), expected.numpy(), rtol=2 * HALF, atol=1e-6
        )
    stored = torch.from_numpy(latents["mean"]).float() * 2 * std + mean
    expected = 255 * network.decode(stored).sample.clamp(0, 1).permute(0, 2, 3, 1)
    sure = (expected - expected.round()).abs() > 1e-2
    assert (decoded["image"] == expected.to(torch.uint8).numpy())[sure.numpy()].all()
    assert float(sure.float().mean()) > 0.3  # with random weights, others are below 0


@pytest.mark.parametrize("spec", [SD, HIERARCHICAL], ids=lambda spec: type(spec).__name__)
def test_bfloat16_is_near_float32_and_has_its_dtype(tmp_path, spec):
    wide, narrow = (
        made(encode(tmp_path, spec, precision=precision))[0] for precision in ("float32", "bfloat16")
    )
    name = encode(tmp_path, spec).columns[0]
    assert narrow[name].dtype == np.float16 and (wide[name] != narrow[name]).any()
    np.testing.assert_allclose(
        narrow[name].astype(np.float32), wide[name].astype(np.float32), rtol=0.05, atol=0.05
    )


def test_batches_follow_from_the_shard_and_the_bound_alone(tmp_path):
    step = encode(tmp_path, shard_size=5)
    inputs = complete(step, MemoryStore(uuid4().hex))
    first, again = step.shard_builder(inputs)(5, 10), step.shard_builder(inputs)(5, 10)
    whole = step.shard_builder(inputs)(0, 10)
    assert all((first[name] == again[name]).all() for name in first)
    np.testing.assert_allclose(
        first["mean"].astype(np.float32), whole["mean"][5:].astype(np.float32), rtol=4 * HALF, atol=1e-6
    )


@pytest.mark.parametrize("loud", [1e6, float("nan")])
def test_latents_that_float16_cannot_hold_are_refused_and_nothing_is_committed(tmp_path, loud):
    weights, store = vae(tmp_path), MemoryStore(uuid4().hex)
    tensors = load_file(weights.source)
    save_file(
        tensors | {"quant_conv.bias": torch.full_like(tensors["quant_conv.bias"], loud)}, weights.source
    )
    step = Encode(images=imported(tmp_path)[:COUNT], vae=weights.weights())
    with pytest.raises(ValueError, match="mean.*finite|finite.*mean"):
        complete(Decode(latents=step.all(), vae=weights.weights()), store)
    assert not Root(store).step_store(step).committed("shards")


def test_files_with_the_old_names_of_the_attention_load_as_a_pretrained(tmp_path):
    weights = vae(tmp_path)
    old = load_file(weights.source)
    for past, present in OLD_ATTENTION_NAMES.items():
        old = {name.replace(f".{present}.", f".{past}."): tensor for name, tensor in old.items()}
    assert any(".query." in name for name in old) and not any(".to_" in name for name in old)
    assert not any(name.startswith("autoencoder.") for name in old)
    present_rows, _ = made(encode(tmp_path))
    (tmp_path / "old").mkdir()
    save_file(old, tmp_path / "old" / "vae.safetensors")
    renamed = weights.model_copy(update={"source": str(tmp_path / "old" / "vae.safetensors")})
    rows, _ = made(Encode(images=imported(tmp_path)[:COUNT], vae=renamed.weights(), batch_size=4))
    assert all((rows[name] == present_rows[name]).all() for name in rows)


def test_shapes_follow_from_the_recipe(tmp_path):
    assert encode(tmp_path).shape == DataShape(4, 4, 3)
    assert encode(tmp_path, HIERARCHICAL).shape == DataShape(8, 6, 3)
    assert Decode(latents=samples(tmp_path)[:8], vae=vae(tmp_path).weights()).shape == DataShape(SIDE, 3, 3)
    dit = dg.official("dit-xl-2-256").step
    vaes = [dg.official(name).step for name in ("sd-vae-ft-ema", "sd-vae-ft-mse")]
    for step in vaes:
        assert isinstance(step, dg.Pretrained) and isinstance(dit, dg.Pretrained)
        assert step.network.latent_shape(step.image_size) == (dit.image_size, dit.channels) == (32, 4)  # type: ignore[union-attr]
    prior, lsgm = (dg.official("lsgm-cifar10", part=part).step for part in ("prior", "vae"))
    assert isinstance(prior, dg.Pretrained) and isinstance(lsgm, dg.Pretrained)
    assert lsgm.network.latent_shape(lsgm.image_size) == (prior.image_size, prior.channels) == (16, 180)  # type: ignore[union-attr]


def test_decoded_samples_have_the_seed_and_the_indices_of_those_that_were_drawn(tmp_path):
    latents = samples(tmp_path, seed=7)
    decoded = Decode(latents=latents[100:200], vae=vae(tmp_path).weights())
    assert decoded[10:20].drawn == (7, "counter", 110, 120)
    assert (decoded.length, decoded.title) == (100, "decoded generate seed 7")
    assert decoded[10:20].origin == latents[110:120] and latents[3:4].origin == latents[3:4]


def test_what_does_not_fit_is_refused_when_the_recipe_is_built(tmp_path):
    weights, images, latents = vae(tmp_path).weights(), imported(tmp_path), samples(tmp_path)
    large = imported(tmp_path, np.zeros((4, 32, 32, 3), np.uint8))
    pixel_score = pretrained(tmp_path, "NCSNpp", **SCORES["NCSNpp"])
    refused: list[tuple[str, Any]] = [
        (
            "expected images, found the latents of generate seed 0: decode them",
            lambda: Encode(images=latents[:8], vae=weights),
        ),
        ("16 pixels per side, found 3 channels and 32 pixels", lambda: Encode(images=large[:4], vae=weights)),
        (
            "weights of an autoencoder .*found pretrained of DiT",
            lambda: Encode(images=images[:4], vae=latents.score),
        ),
        ("draws=1 and seed=0, found 2 and 0", lambda: Encode(images=images[:4], vae=weights, draws=2)),
        ("expected latents .*found import-images", lambda: Decode(latents=images[:4], vae=weights)),
        (
            "expected latents .*found generate",
            lambda: Decode(latents=dg.Generate(score=pixel_score.weights())[:4], vae=weights),
        ),
        (
            "6 channels of 8 a side, found 4 of 4: name the autoencoder",
            lambda: Decode(latents=latents[:4], vae=vae(tmp_path, HIERARCHICAL).weights()),
        ),
        (
            "NVAE's, which has none",
            lambda: Decode(
                latents=encode(tmp_path, HIERARCHICAL).all(), vae=vae(tmp_path, HIERARCHICAL).weights()
            ),
        ),
        (
            "expected a score network .*found pretrained of StableDiffusionVAE",
            lambda: dg.Generate(score=weights),
        ),
        ("found the latents of encoded import-images", lambda: encode(tmp_path).all().image_shape),
        (
            "halved 2 times, found 18",
            lambda: Encode(
                images=imported(tmp_path, np.zeros((4, 18, 18, 3), np.uint8))[:4], vae=odd.weights()
            ),
        ),
        ("which is one network, found 'vae'", lambda: dg.official("dit-xl-2-256", part="vae")),
    ]
    odd = dg.Pretrained(source=str(tmp_path / "odd.safetensors"), network=SD, image_size=18)
    for message, build in refused:
        with pytest.raises(ValueError, match=message):
            build()
    assert images[:4].image_shape == images.shape
    assert Decode(latents=latents[:4], vae=weights)[:4].image_shape.channels == 3


def test_without_diffusers_the_extra_is_named_before_anything_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    for name in [name for name in sys.modules if name.startswith("diffusers.")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("dgflow.weights.fetch.fetch", lambda *_, **__: pytest.fail("something is fetched"))
    with pytest.raises(ValueError, match=r"pip install 'dgflow\[dit\]'"):
        complete(dg.official("sd-vae-ft-mse").step, open_store(str(tmp_path / "root")))

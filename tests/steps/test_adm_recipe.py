"""A whole recipe on a network that was trained elsewhere: DDPM, a noisy classifier and a discriminator that
use the same time, a table."""

import pytest
import tiny
from inprocess import complete
from steps.toy_networks import pretrained

import dgflow as dg
from dgflow.networks.discriminator.module import DiscriminatorModule
from dgflow.report.summary import comparisons, summarise
from dgflow.store.open import open_store


def recipe(folder) -> dg.Evaluate:
    real = tiny.real(tiny.write_images(folder / "images.npz"))
    unet = dg.ADMUNet(
        model_channels=32,
        channel_mult=(1, 1),
        num_res_blocks=1,
        attention_resolutions=(2,),
        num_head_channels=32,
    )
    score = pretrained(folder, "score", network=unet, channels=1, num_classes=2).weights()
    told = tiny.ENCODER.model_copy(update={"time": "ddpm-linear"})
    judge, noisy = (
        dg.TrainClassifier(real=real[:64], network=network, noise=noise, epochs=1, batch_size=16)  # type: ignore[arg-type]
        for network, noise in ((tiny.JUDGE, "none"), (told, "linear_vp"))
    )
    sampler = dg.DDPM(respacing="4")
    fakes = dg.Generate(score=score, sampler=sampler, seed=1, shard_size=16)[:64]
    arms = {"unguided": (dg.Generate(score=score, sampler=sampler, seed=5, shard_size=16)[:32],)}
    for seed in range(2):
        disc = dg.TrainDiscriminator(
            real=real[:64],
            fake=fakes,
            network=tiny.ENCODER,
            features=noisy.last(),
            epochs=1,
            batch_size=16,
            held_out=0.25,
            seed=seed,
        )
        terms = dg.adm_gpp("3.18", noisy.last(), disc.best())
        arms[f"guided-{seed}"] = (
            dg.Generate(score=score, sampler=sampler, seed=5, shard_size=16, guidance=terms)[:32],
        )
    return dg.Evaluate(arms=arms, reference=real[64:96], features=judge.last(), floor=real[32:64])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adm")
    target, store = recipe(folder), open_store(str(folder / "root"))
    complete(target, store)
    return target, store


def test_an_adm_recipe_ends_with_a_table_that_compares_its_arms(finished):
    target, store = finished
    lines = comparisons(summarise(target, store))
    assert [line.split()[0] for line in lines] == ["guided-0", "guided-1", "over", "their"]
    assert lines[2].startswith("over 2 discriminator seeds (guided-0, guided-1): FID")


def test_the_head_is_told_the_time_of_its_features(finished):
    target, store = finished
    generate = target.arms["guided-0"][0].step
    assert isinstance(generate, dg.Generate) and isinstance(
        term := generate.guidance[1], dg.DiscriminatorGuidance
    )
    disc = term.guides[0].step
    network = disc.build(complete(disc, store))
    assert isinstance(network, DiscriminatorModule) and network.features is not None
    assert network.features.time_scale == network.head.time_scale == 1.0

"""Networks that cannot be: refused by arithmetic, as building them would, and before anything is made."""

from typing import Any

import pytest
import torch
from steps.shipped import SYSTEMS, built

import dgflow as dg
from dgflow.engine.networks import check_built, check_sizes
from dgflow.networks.families import FAMILIES
from dgflow.specs.graph import graph
from dgflow.specs.network import DataShape, NetworkSpec

IMAGES, LATENTS = DataShape(32, 3, 0), DataShape(32, 4, 3)
HEAD = dg.ADMEncoder(model_channels=32, num_res_blocks=1, attention_resolutions=(), num_head_channels=32)
CANNOT_BE = [
    (dg.ADMUNet(model_channels=24), IMAGES._replace(image_size=64), "multiple of 32"),
    (
        dg.ADMUNet(model_channels=96, attention_resolutions=(1,)),
        IMAGES,
        "heads of 64: change num_head_channels",
    ),
    (dg.ADMUNet(model_channels=64), IMAGES._replace(image_size=8), "image_size 8 cannot be halved 5 times"),
    (dg.ADMEncoder(model_channels=24), DataShape(8, 3, 10), "multiple of 32"),
    (
        dg.ADMEncoder(model_channels=64, channel_mult=(1,) * 5),
        DataShape(8, 3, 10),
        "cannot be halved 4 times",
    ),
    (dg.Discriminator(head=dg.ADMEncoder(model_channels=48)), IMAGES, "multiple of 32"),
    (dg.Perceptron(layers=0), DataShape(1, 2, 0), "at least one layer of one unit"),
    (dg.Discriminator(head=dg.Perceptron(width=0)), IMAGES, "width=0"),
    (dg.SongUNet(model_channels=50), IMAGES, r"100 channels, .* 25 groups|50 channels, .* 12 groups"),
    (dg.SongUNet(model_channels=0), IMAGES, "0 channels, of a level"),
    (dg.SongUNet(channel_mult=(1, 1, 1, 1, 1)), IMAGES._replace(image_size=8), "cannot be halved 4 times"),
    (dg.DhariwalUNet(model_channels=100), IMAGES, "cannot be split into|heads"),
    (dg.DhariwalUNet(), IMAGES._replace(image_size=28), "cannot be halved 3 times"),
    (dg.EDM2UNet(model_channels=200, channel_mult=(1, 1)), IMAGES, "200 channels cannot be split into 3"),
    (dg.EDM2UNet(), IMAGES._replace(image_size=28), "cannot be halved 3 times"),
    (dg.EDM2VAE(raw_std=(1.0, 1.0)), IMAGES, "raw_std of each of the 4 channels of latents, found 2"),
    (dg.NCSNpp(nf=18, ch_mult=(1, 1)), IMAGES, "18 channels, of a level"),
    (dg.NCSNpp(), IMAGES._replace(image_size=12), "cannot be halved 3 times"),
    (dg.NCSNpp(), IMAGES._replace(num_classes=3), "has no classes"),
    (dg.DDPMUNet(ch=48), IMAGES, "multiple of 32"),
    (dg.DDPMUNet(), IMAGES._replace(image_size=16), "cannot be halved 5 times"),
    (dg.DiT(patch_size=3), LATENTS, "cannot be cut into patches of 3"),
    (dg.DiT(num_heads=7), LATENTS, "cannot be split into 7 heads"),
    (dg.LSGMPrior(), DataShape(6, 180, 0), "cannot be halved 2 times"),
    (dg.NVAE(), IMAGES._replace(channels=1), "needs 3 image channels, found 1"),
    (dg.NVAE(channel_mult=(1, 2, 2)), IMAGES, "num_preprocess_blocks"),
    (dg.NVAE(), IMAGES._replace(image_size=9), "can be halved 1 times"),
    (dg.StableDiffusionVAE(norm_num_groups=24), IMAGES, "multiple of 24"),
    (dg.StableDiffusionVAE(), IMAGES._replace(image_size=36), "can be halved 3 times"),
]


@pytest.mark.parametrize(
    ("network", "shape", "message"), CANNOT_BE, ids=[f"{type(c[0]).__name__} {c[2]}" for c in CANNOT_BE]
)
def test_a_network_that_cannot_be_is_refused_without_torch_and_cannot_be_built(network, shape, message):
    with pytest.raises(ValueError, match=message):
        network.check(shape)
    if isinstance(network, dg.StableDiffusionVAE) and shape.image_size == 36:
        return  # diffusers builds it, and fails when it is asked
    with pytest.raises((ValueError, ZeroDivisionError, RuntimeError)), torch.device("meta"):
        network.build(**shape._asdict())


@pytest.mark.parametrize("width", range(2, 140, 6))
@pytest.mark.parametrize(("family", "name"), [(dg.SongUNet, "model_channels"), (dg.NCSNpp, "nf")])
def test_widths_of_levels_and_skips_are_refused_exactly_where_building_them_fails(family, name, width):
    blocks, mults = ("num_res_blocks", "ch_mult") if family is dg.NCSNpp else ("num_blocks", "channel_mult")
    fields: dict[str, Any] = {name: width, blocks: 1, mults: (1, 2, 3)}
    network = family(**fields, attn_resolutions=())

    def refused(call) -> bool:
        try:
            call()
        except ValueError:
            return True
        return False

    with torch.device("meta"):
        built = refused(lambda: network.build(**IMAGES._asdict()))
    assert refused(lambda: network.check(IMAGES)) == built


def recipe(encoder=HEAD, score=None) -> dg.TrainDiscriminator:
    real = dg.ImportImages(source="/nowhere", num_images=100, num_classes=3, image_size=8)
    network = score or dg.SongUNet(model_channels=16, channel_mult=(1, 1), num_blocks=1, attn_resolutions=())
    fakes = dg.Generate(score=dg.TrainScore(real=real[:80], network=network).last(), sampler=dg.Heun(steps=2))
    features = dg.TrainClassifier(real=real[:80], network=encoder, noise="linear_vp").last()
    return dg.TrainDiscriminator(real=real[:80], fake=fakes[:80], features=features, network=HEAD)


def test_all_networks_that_cannot_be_are_told_together_by_the_steps_that_have_them():
    wrong = recipe(HEAD.model_copy(update={"model_channels": 24}), dg.SongUNet(channel_mult=(1,) * 5))
    for check in (check_sizes, check_built):
        with pytest.raises(ValueError, match="3 networks of the recipe cannot be built") as refused:
            check(graph(wrong))
        assert "- train-score (SongUNet): " in str(refused.value)
        assert "- train-classifier (ADMEncoder): every level's width must be a" in str(refused.value)
        assert "- train-discriminator (ADMEncoder): " in str(refused.value)
    check_sizes(graph(recipe()))
    check_built(graph(recipe()))


def test_a_head_that_cannot_halve_what_its_features_give_is_refused():
    deep = HEAD.model_copy(update={"channel_mult": (1, 1)})
    step = recipe(deep).model_copy(update={"network": HEAD.model_copy(update={"channel_mult": (1,) * 4})})
    for check in (check_sizes, check_built):
        with pytest.raises(ValueError, match=r"train-discriminator .*image_size 4 cannot be halved 3 times"):
            check(graph(step))


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_networks_of_shipped_recipes_can_be(system):
    check_sizes(graph(built(system)))


def test_every_family_has_a_check_or_builds_its_network_otherwise():
    assert {family.__name__ for family in FAMILIES if family.check is NetworkSpec.check} == {
        "OwnDenoiser",
        "OwnFeatures",
        "InceptionV3",
    }

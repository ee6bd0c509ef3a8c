"""Weights that were trained elsewhere: published ones as specs, files fetched once, and files that do not
fit."""

import json
from pathlib import Path

import pytest
import torch
from inprocess import complete
from steps.toy_networks import SCORES, pretrained

import dgflow as dg
from dgflow.engine.plan import plan
from dgflow.engine.root import Root
from dgflow.networks.catalogue import CATALOGUE
from dgflow.specs.bound import Bound, BoundWeights
from dgflow.store.open import open_store
from dgflow.weights.tensors import save_weights

SHAPES = json.loads(
    (Path(__file__).resolve().parents[1] / "goldens" / "networks" / "official_shapes.json").read_text()
)
NETWORKS = [name for name, file in CATALOGUE.items() if file.network]


def built(weights: dg.Pretrained) -> torch.nn.Module:
    """Builds the network on the meta device, with the features that a discriminator reads."""
    items = {}
    with torch.device("meta"):
        if isinstance(weights.network, dg.Discriminator):
            features = built(weights.network.features.step)  # type: ignore[union-attr, arg-type]

            class Inputs(Bound):
                def network(self, name: str) -> torch.nn.Module:
                    assert name == "network.features"
                    return features

            return weights.trained_part(weights.build(Inputs(items)))
        return weights.trained_part(weights.build(Bound()))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_published_network_is_named_in_one_word(name):
    step = dg.official(name).step
    assert isinstance(step, dg.Pretrained) and step.source == name
    assert sum(tensor.numel() for tensor in built(step).state_dict().values()) > 1e6


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("edm-cifar10-32x32-uncond-vp", "edm-cifar10-32x32-uncond-vp"),
        ("edm-ffhq-64x64-uncond-vp", "edm-ffhq-64x64-uncond-vp"),
        ("edm-imagenet-64x64-cond-adm", "edm-imagenet-64x64-cond-adm"),
        ("adm-imagenet-256x256-classifier", "guided-diffusion 256x256_classifier"),
        ("adm-imagenet-256x256-diffusion", "guided-diffusion 256x256_diffusion (cond)"),
        ("dit-xl-2-256", "DiT-XL/2 256"),
        ("dg-cifar10-classifier", "DG classifier 32 (load_classifier img_resolution=32)"),
        ("dg-cifar10-uncond", "DG discriminator uncond (load_discriminator channel=512)"),
        ("dg-imagenet256-classifier", "DG_imagenet latent classifier (load_classifier)"),
        ("lsgm-cifar10 vae", "LSGM CIFAR-10 best FID VAE (vae2)"),
        ("lsgm-cifar10 prior", "LSGM CIFAR-10 best FID prior (180 latent channels, num_channels_dae 512)"),
        ("edm-imagenet-64x64-cond-adm", "edm-imagenet-64x64-cond-adm"),
        (
            "soft-truncation-celeba64",
            "Soft-Truncation CELEBA ddpmpp (configs/vp/CELEBA/ddpmpp_fid.py; same keys for all "
            "vp/CELEBA/*ddpmpp*)",
        ),
    ],
)
def test_a_published_network_has_every_name_and_shape_of_its_file(name, published):
    step = dg.official(*name.split()).step
    assert isinstance(step, dg.Pretrained)
    assert {key: list(tensor.shape) for key, tensor in built(step).state_dict().items()} == SHAPES[published]


def test_a_name_that_is_not_published_is_refused_with_those_that_are():
    with pytest.raises(
        ValueError, match=r"expected one of edm-cifar10-32x32-uncond-vp, .*found 'edm-cifar11'"
    ):
        dg.official("edm-cifar11")
    with pytest.raises(ValueError, match="a discriminator or an autoencoder, found fid-cifar10-32x32"):
        dg.official("fid-cifar10-32x32")


def test_a_format_that_the_network_has_no_files_of_is_refused_with_those_that_it_has():
    with pytest.raises(
        ValueError, match="expected one of the formats safetensors, state_dict, edm_pickle .*found 'ckpt'"
    ):
        dg.Pretrained(source="net.ckpt", network=dg.SongUNet(), image_size=32, format="ckpt")
    with pytest.raises(ValueError, match="lsgm-cifar10 has prior, vae"):
        dg.official("edm-cifar10-32x32-uncond-vp", "vae")


def test_a_file_is_fetched_once_and_then_read_from_the_root(tmp_path):
    step, store = pretrained(tmp_path, "NCSNpp", **SCORES["NCSNpp"]), open_store(str(tmp_path / "root"))
    generate = dg.Generate(score=step.weights(), sampler=dg.Heun(steps=2, sigma_min=0.1), shard_size=2)
    before = [state.action for state in plan(generate[:2].step, store)]
    complete(generate, store)
    Path(step.source).unlink()
    states = plan(generate, store)
    assert before[0] == "build" and states[0].action == "reuse"
    bound = Root(store).bind(generate, {step.fingerprint: Bound()})
    assert bound is not None and isinstance(bound.items["score"], BoundWeights)
    network = bound.network("score")
    assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())


def test_a_file_that_does_not_fit_is_refused_by_name_key_and_shape_before_anything_is_committed(tmp_path):
    step, store = pretrained(tmp_path, "NCSNpp", **SCORES["NCSNpp"]), open_store(str(tmp_path / "root"))
    other = step.model_copy(update={"network": step.network.model_copy(update={"nf": 16})})
    with pytest.raises(
        ValueError,
        match=r"NCSNpp\.safetensors do not fit this NCSNpp .*misshaped \(all_modules\.0\.weight expected",
    ):
        complete(dg.Generate(score=other.weights()), store)
    assert not Root(store).step_store(other).committed("results")


def test_another_file_than_the_expected_one_is_refused_with_both_digests(tmp_path):
    step, store = pretrained(tmp_path, "NCSNpp", **SCORES["NCSNpp"]), open_store(str(tmp_path / "root"))
    wrong = step.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(ValueError, match=rf"{'0' * 64}"):
        complete(dg.Generate(score=wrong.weights()), store)


def test_a_file_that_changed_after_its_first_use_is_refused(tmp_path):
    step, root = pretrained(tmp_path, "NCSNpp", **SCORES["NCSNpp"]), tmp_path / "root"
    complete(
        dg.Generate(score=step.weights(), sampler=dg.Heun(steps=2, sigma_min=0.1)), open_store(str(root))
    )
    network = step.build(Bound())
    Path(step.source).write_bytes(
        save_weights({name: 2 * tensor for name, tensor in network.state_dict().items()})
    )
    again = step.model_copy(update={"image_size": 16})  # another step that reads the same file
    with pytest.raises(Exception, match=r"locked") as refused:
        complete(dg.Generate(score=again.weights()), open_store(str(root)))
    assert step.source in str(refused.value)


def test_a_published_file_that_only_a_person_can_fetch_is_asked_for_with_its_page_and_its_place(tmp_path):
    with pytest.raises(
        ValueError, match=r"drive\.google\.com.*weights/dg-cifar10-classifier/32x32_classifier\.pt"
    ):
        complete(dg.official("dg-cifar10-classifier").step, open_store(str(tmp_path / "root")))

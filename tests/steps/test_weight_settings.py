"""The settings that weight files declare, compared with those of a recipe."""

import argparse
import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from inprocess import complete
from steps.toy_networks import HIERARCHICAL, SCORES, randomised

import dgflow as dg
from dgflow.networks.edm.file_writer import write_edm_pickle
from dgflow.networks.lsgm.file import write_lsgm
from dgflow.specs.bound import Bound
from dgflow.specs.step import here
from dgflow.store.open import open_store
from dgflow.weights.tensors import load_weights, save_weights
from dgflow.weights.torch_file import save_torch


def step_of(file: Path, name: str, format: str, **changes) -> dg.Pretrained:
    fields = {"image_size": 8, "num_classes": 0, **SCORES[name]}
    network = fields.pop("network").model_copy(update=changes)
    return dg.Pretrained(source=str(file), network=network, format=format, **fields)


def computed(step: dg.Pretrained, root: Path) -> dict[str, torch.Tensor]:
    return load_weights(step.compute(Bound(), here, open_store(str(root))))


@pytest.fixture
def snapshot(tmp_path):
    """Returns a function that writes EDM's pickle of a network, with `precond` and other changes."""

    def write(change=None, kwargs=None, name="SongUNet", **changes) -> Path:
        step = step_of(tmp_path / "net.pkl", name, "edm_pickle", **changes)
        network, spec = step.build(Bound()), cast(Any, step.network)
        randomised(network)
        init_kwargs = spec.arguments(step.shape) | (kwargs or {})
        Path(step.source).write_bytes(write_edm_pickle(network, init_kwargs=init_kwargs, change=change))
        return Path(step.source)

    return write


@pytest.mark.parametrize(("precond", "told"), [("vp", "VP"), ("ve", "VE")])
def test_a_snapshot_of_another_preconditioner_is_refused_with_both_and_what_to_write(
    snapshot, tmp_path, precond, told
):
    file = snapshot(precond=precond)
    with pytest.raises(
        ValueError, match=f"precond is '{precond}' in the file and 'edm' in the recipe .*write p"
    ):
        computed(step_of(file, "SongUNet", "edm_pickle"), tmp_path / "root")
    assert not list((tmp_path / "root").rglob("*.json")), "a file that does not fit is not locked"
    assert computed(step_of(file, "SongUNet", "edm_pickle", precond=precond), tmp_path / "root"), told


def test_sigma_data_and_constants_of_a_snapshot_are_compared(snapshot, tmp_path):
    file = snapshot(sigma_data=1.5)
    with pytest.raises(ValueError, match=r"sigma_data is 1\.5 in the file and 0\.5 .*write sigma_data=1\.5"):
        computed(step_of(file, "SongUNet", "edm_pickle"), tmp_path / "root")
    assert computed(step_of(file, "SongUNet", "edm_pickle", sigma_data=1.5), tmp_path / "root")
    file = snapshot(precond="vp", change=lambda state: state.update(beta_d=10.0))
    with pytest.raises(
        ValueError, match=r"beta_d is 10\.0 in the file and 19\.9 .*this network supports no other"
    ):
        computed(step_of(file, "SongUNet", "edm_pickle", precond="vp"), tmp_path / "other")
    file = snapshot(precond="ve", change=lambda state: state.update(sigma_max=348.0))
    with pytest.raises(ValueError, match=r"sigma_max is 348\.0 in the file and 100\.0"):
        computed(step_of(file, "SongUNet", "edm_pickle", precond="ve"), tmp_path / "third")


def test_sizes_classes_and_arguments_of_a_snapshot_are_compared(snapshot, tmp_path):
    file = snapshot()
    step = step_of(file, "SongUNet", "edm_pickle")
    with pytest.raises(ValueError, match=r"img_resolution is 8 in the file and 16 .*write image_size=8"):
        computed(step.model_copy(update={"image_size": 16}), tmp_path / "root")
    with pytest.raises(ValueError, match=r"label_dim is 3 in the file and 2 .*write num_classes=3"):
        computed(step.model_copy(update={"num_classes": 2}), tmp_path / "root")
    file = snapshot(kwargs={"embedding_type": "fourier", "attn_resolutions": [4]})
    with pytest.raises(ValueError, match="embedding_type is 'fourier' in the file and 'positional'"):
        computed(step, tmp_path / "root")
    assert computed(step_of(snapshot(dropout=0.3), "SongUNet", "edm_pickle"), tmp_path / "root")


def test_training_options_beside_a_snapshot_are_compared(snapshot, tmp_path):
    step = step_of(snapshot(), "SongUNet", "edm_pickle")
    options = {"network_kwargs": {"class_name": "training.networks.VPPrecond", "model_type": "SongUNet"}}
    (tmp_path / "training_options.json").write_text(json.dumps(options))
    with pytest.raises(ValueError, match="training_options.json beside it: .*precond is 'vp' in the file"):
        computed(step, tmp_path / "root")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"model": "DiT-XL/2"}, "num_heads is 16 in the file and 2 in the recipe"),
        ({"num_heads": 4}, "num_heads is 4 in the file and 2"),
        ({"image_size": 256}, "image_size is 32.* in the file and 8"),
        ({"num_classes": 1000}, "num_classes is 1000 in the file and 3 .*write num_classes=1000"),
        ({"model": "DiT-S/4", "num_heads": 2}, "patch_size is 4 in the file and 2"),
    ],
)
def test_the_args_of_a_dit_are_compared(tmp_path, args, message):
    step = step_of(tmp_path / "dit.pt", "DiT", "dit")
    ema = randomised(step.build(Bound()))
    namespace = argparse.Namespace(**args, epochs=1400, global_seed=0)
    Path(step.source).write_bytes(save_torch({"model": ema, "ema": ema, "opt": {}, "args": namespace}))
    with pytest.raises(ValueError, match=message):
        computed(step, tmp_path / "root")


def test_args_that_agree_pass_with_the_weights_of_ema(tmp_path):
    step = step_of(tmp_path / "dit.pt", "DiT", "dit")
    ema = randomised(step.build(Bound()))
    args = argparse.Namespace(image_size=64, num_classes=3, num_heads=2, vae="ema")
    model = {name: tensor + 1 for name, tensor in ema.items()}
    wrapped = {f"module.{name}": tensor for name, tensor in ema.items()}
    Path(step.source).write_bytes(save_torch({"model": model, "ema": wrapped, "opt": {}, "args": args}))
    found = computed(step, tmp_path / "root")
    assert all(torch.equal(found[name], tensor) for name, tensor in ema.items())


def test_lsgm_s_args_are_compared_for_both_networks(tmp_path):
    prior = step_of(tmp_path / "both.pt", "LSGMPrior", "lsgm")
    network = prior.build(Bound())
    vae = dg.Pretrained(source=prior.source, network=HIERARCHICAL, image_size=16, format="lsgm")
    tensors, names = randomised(network), cast(Any, network).ema_names()

    def write(**args) -> None:
        other = randomised(vae.build(Bound()))
        Path(prior.source).write_bytes(write_lsgm(tensors, names, other, args))

    write(num_channels_dae=8, num_cell_per_scale_dae=1, num_groups_per_scale=2, num_latent_per_group=3)
    assert computed(prior, tmp_path / "good") and computed(vae, tmp_path / "good")
    write(sde_type="geometric_sde", embedding_scale=1.0, decoder_dist="normal")
    with pytest.raises(ValueError, match=r"embedding_scale is 1\.0 in the file and 1000\.0 .*"):
        computed(prior, tmp_path / "root")
    with pytest.raises(ValueError, match="decoder_dist is 'normal' in the file and 'dml'"):
        computed(vae, tmp_path / "root")


def test_a_configuration_beside_a_file_and_metadata_inside_are_compared(tmp_path):
    step = step_of(tmp_path / "net.safetensors", "NCSNpp", "safetensors")
    tensors = randomised(step.build(Bound()))
    Path(step.source).write_bytes(save_weights(tensors))
    config = {"model": {"nf": 8, "embedding_type": "fourier"}, "data": {"image_size": 8}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="config.json beside it: .*embedding_type is 'fourier'"):
        computed(step, tmp_path / "root")
    (tmp_path / "config.json").write_text(json.dumps({"model": {"nf": 8}}))
    assert computed(step, tmp_path / "root")
    from safetensors.torch import save

    Path(step.source).write_bytes(save(tensors, metadata={"image_size": "32", "format": "pt"}))
    with pytest.raises(ValueError, match="image_size is 32 in the file and 8"):
        computed(step, tmp_path / "other")


def test_hyper_parameters_of_an_own_network_are_compared_with_its_options(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, image_size, channels, num_classes, width=4):\n"
        "        super().__init__()\n"
        "        self.body = nn.Conv2d(channels, channels, 3, padding=1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    network = dg.OwnDenoiser(factory="mine:Net", options={"width": 4})
    step = dg.Pretrained(
        source=str(tmp_path / "run.ckpt"), network=network, image_size=8, format="state_dict"
    )
    state = {f"model.{name}": tensor for name, tensor in step.build(Bound()).state_dict().items()}
    file = {"state_dict": state, "hyper_parameters": {"width": 8, "lr": 1e-3}}
    Path(step.source).write_bytes(save_torch(file))
    with pytest.raises(ValueError, match="width is 8 in the file and 4 in the recipe"):
        computed(step, tmp_path / "root")


def test_weights_that_were_overwritten_are_refused_by_a_later_run_with_both_digests(tmp_path):
    step = step_of(tmp_path / "net.safetensors", "NCSNpp", "safetensors")
    tensors, root = randomised(step.build(Bound())), open_store(str(tmp_path / "root"))
    Path(step.source).write_bytes(save_weights(tensors))
    target = dg.Generate(score=step.weights(), sampler=dg.Heun(steps=2, sigma_min=0.1), shard_size=2)
    complete(target, root)
    step.check_unchanged(bytes, root)
    other = save_weights({name: tensor + 1 for name, tensor in tensors.items()})
    Path(step.source).write_bytes(other)
    import hashlib

    with pytest.raises(ValueError, match=hashlib.sha256(other).hexdigest()) as refused:
        step.check_unchanged(bytes, root)
    assert hashlib.sha256(save_weights(tensors)).hexdigest() in str(refused.value)
    assert "delete weights/" in str(refused.value) and step.name in str(refused.value)
    Path(step.source).unlink()
    step.check_unchanged(bytes, root)  # on a host without the file

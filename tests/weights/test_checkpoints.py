"""Checkpoints as trainers write them: prefixes, wrappers and averages around a network's weights."""

import collections
import logging

import pytest
import torch
from torch import nn

from dgflow.weights.checkpoints import fitting
from dgflow.weights.safetensors_file import read_safetensors
from dgflow.weights.tensors import check_fits, save_weights
from dgflow.weights.torch_file import read_checkpoint, save_torch


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(collections.OrderedDict(first=nn.Linear(3, 4), norm=nn.BatchNorm1d(4)))


WEIGHTS, OTHERS = net().state_dict(), net(1).state_dict()


def under(prefix: str, tensors=WEIGHTS):
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def equal(found, expected=WEIGHTS) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "ema.", "ema_model.", "net.", "network.", "diffusion_model."]
    + ["module._orig_mod.", "_orig_mod.module.", "model.diffusion_model.", "model._orig_mod."],
)
def test_a_prefix_of_all_names_is_removed_and_told(prefix, caplog):
    found = read_checkpoint(save_torch(under(prefix)), net(), source="net.pt")
    assert equal(found.tensors)
    assert "net.pt: removed" in caplog.text
    assert equal(read_safetensors(save_weights(under(prefix)), network=net()).tensors)


def test_names_that_a_compiler_put_inside_are_removed_too():
    inside = {name.replace("first.", "first._orig_mod."): tensor for name, tensor in WEIGHTS.items()}
    found, note = fitting(inside, net(), "net.pt")
    assert equal(found) and "_orig_mod." in note


@pytest.mark.parametrize("key", ["state_dict", "ema", "model", "model_state_dict", "model_ema", "params_ema"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_one_state_dict_that_fits_is_taken_from_among_other_things(key, prefix, caplog):
    optimizer = {"state": {0: {"exp_avg": torch.ones(4, 3)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    file = save_torch({key: under(prefix), "optimizer": optimizer, "epoch": 3})
    assert equal(read_checkpoint(file, net(), source="run.ckpt").tensors)
    assert f"run.ckpt: took '{key}'" in caplog.text


def test_lightning_s_checkpoints_are_read_with_their_hyper_parameters():
    state = {**under("model."), "loss.weight": torch.ones(2), "model_ema.decay": torch.tensor(0.9)}
    file = save_torch(
        {
            "epoch": 1,
            "global_step": 5,
            "pytorch-lightning_version": "2.1.0",
            "state_dict": state,
            "callbacks": {},
            "optimizer_states": [{"state": {}, "param_groups": []}],
            "lr_schedulers": [],
            "hyper_parameters": {"lr": 1e-3, "width": 4},
        }
    )
    found = read_checkpoint(file, net())
    assert equal(found.tensors) and found.settings["hyper_parameters"] == {"lr": 1e-3, "width": 4}


def test_a_plain_state_dict_is_read_without_a_note(caplog):
    caplog.set_level(logging.INFO)
    assert equal(read_checkpoint(save_torch(dict(WEIGHTS)), net()).tensors) and not caplog.text


def test_of_two_that_fit_the_key_is_asked_for_and_then_decides():
    file = save_torch({"state_dict": {**under("online_model."), **under("ema_model.", OTHERS)}})
    with pytest.raises(
        ValueError, match=r"found 'state_dict\.online_model', 'state_dict\.ema_model', .*key='s"
    ):
        read_checkpoint(file, net(), source="run.ckpt")
    for key, expected in (("state_dict.ema_model", OTHERS), ("state_dict.online_model", WEIGHTS)):
        assert equal(read_checkpoint(file, net(), key=key).tensors, expected)
    both = save_torch({"model": under("module."), "ema": under("module.", OTHERS)})
    with pytest.raises(ValueError, match="'model.module', 'ema.module'"):
        read_checkpoint(both, net())
    assert equal(read_checkpoint(both, net(), key="ema").tensors, OTHERS)
    with pytest.raises(ValueError, match="under 'emma', found 'model.module', 'ema.module'"):
        read_checkpoint(both, net(), key="emma")


def test_the_key_that_is_suggested_is_of_the_average_and_not_of_the_network_beside_it():
    found = {"ema": {**under("online_model.", net(seed=1).state_dict()), **under("ema_model.")}}
    with pytest.raises(ValueError, match=r"choose one, as in key='ema\.ema_model'"):
        fitting(found, net(), "x.pt")


def test_averages_whose_names_have_lost_their_dots_are_a_part_that_can_be_named():
    """Latent diffusion's trainer writes averages beside the raw weights."""
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
    raw = {f"model.diffusion_model.{name}": tensor for name, tensor in network.state_dict().items()}
    averages = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    prefix = "model_ema.diffusion_model"
    file = raw | {prefix + name.replace(".", ""): tensor for name, tensor in averages.items()}
    file |= {"model_ema.decay": torch.tensor(0.9), "first_stage_model.0.weight": torch.ones(2)}
    with pytest.raises(ValueError, match=r"as in key='state_dict\.model_ema\.diffusion_model'"):
        fitting({"state_dict": file}, network, "last.ckpt")
    assert equal(fitting({"state_dict": file}, network, "last.ckpt", f"state_dict.{prefix}")[0], averages)


def test_two_parts_with_the_same_values_are_one():
    assert equal(read_checkpoint(save_torch({"model": WEIGHTS, "ema": dict(WEIGHTS)}), net()).tensors)


def test_a_format_that_says_which_weights_are_meant_is_named_unless_a_key_is_given():
    file = save_torch({"model": WEIGHTS, "ema": OTHERS})
    with pytest.raises(ValueError, match="it looks like format 'dit', so read it as that, or, to use a part"):
        read_checkpoint(file, net(), formats=("dit",))
    assert equal(read_checkpoint(file, net(), formats=("dit",), key="model").tensors)


def test_a_deeper_network_under_a_prefix_does_not_fit_and_its_names_are_compared_without_it():
    state = {"state_dict": {**under("model."), "model.second.weight": torch.ones(2)}}
    found, _ = fitting(state, net(), "run.ckpt")
    with pytest.raises(ValueError, match=r"run.ckpt do not fit .*: 1 unexpected \(second\.weight\)"):
        check_fits(net(), found, source="run.ckpt")
    wide = {name: torch.ones(7) for name in under("module.")}
    found, _ = fitting(wide, net(), "run.ckpt")
    with pytest.raises(ValueError, match=r"misshaped \(first\.weight expected \[4, 3\]"):
        check_fits(net(), found, source="run.ckpt")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_module_that_only_wraps_the_saved_network_adds_its_name(prefix):
    wrapping = nn.Sequential(collections.OrderedDict(net=net()))
    found, note = fitting({"ema": under(prefix), "epoch": 3}, wrapping, "run.ckpt")
    assert equal(found, under("net.")) and "added 'net.' to its names" in note
    with pytest.raises(ValueError, match="expected one state dict that fits"):
        fitting({"model": WEIGHTS, "ema": OTHERS}, wrapping, "run.ckpt")
    found, _ = fitting({"model": WEIGHTS, "ema": OTHERS}, wrapping, "run.ckpt", "ema")
    assert equal(found, under("net.", OTHERS))


def test_names_that_the_network_does_not_have_are_listed_by_their_key():
    with pytest.raises(ValueError, match=r"names \('?first\.weight.* found 'other' in 'ema': change"):
        fitting({"ema": {"other": torch.ones(2)}, "model": {}, "epoch": 3}, net(), "run.ckpt")

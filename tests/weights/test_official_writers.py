"""The official formats, written and read back: the reader gives the tensors that the writer was given, and
none of those beside them."""

import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from weights.inception_files import graph, thin_weights
from weights.reading import read_weights

from dgflow.networks.edm.file_writer import write_edm_pickle
from dgflow.networks.edm.preconditioners import EDMPrecond
from dgflow.networks.edm.song import SongUNetModule
from dgflow.networks.inception.graph_file import write_inception_graph
from dgflow.networks.lsgm.file import write_lsgm
from dgflow.networks.lsgm.prior import LSGMPriorModule
from dgflow.networks.ncsnpp.file import write_soft_truncation
from dgflow.networks.ncsnpp.module import NCSNppModule
from dgflow.weights.torch_file import save_torch

SMALL_PRIOR = {
    "image_size": 4,
    "num_input_channels": 3,
    "num_channels": 8,
    "ch_mult": (1,),
    "num_res_blocks": 1,
    "embedding_dim": 8,
}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], expected[name]) for name in expected
    )


def test_a_flat_file_is_read_as_an_adm_checkpoint_and_as_dit_s() -> None:
    tensors = nn.BatchNorm1d(3).state_dict()
    assert same(read_weights(save_torch(tensors), "state_dict").tensors, tensors)
    assert same(read_weights(save_torch(tensors), "dit").tensors, tensors)


def test_inception_s_state_dict_and_its_graph_are_read_as_the_same_tensors() -> None:
    weights = thin_weights()
    assert same(read_weights(save_torch(weights), "inception_pth").tensors, weights)
    assert same(read_weights(write_inception_graph(weights), "inception_graph").tensors, weights)


def test_the_graph_has_the_constants_of_one_that_was_written_byte_by_byte() -> None:
    from dgflow.networks.inception.graph_file import message

    def constants(data: bytes) -> dict[str, tuple[bytes, list[int]]]:
        nodes = message("Graph").FromString(data).node
        values = {
            node.name: attr.value.tensor
            for node in nodes
            if node.op == "Const"
            for attr in node.attr
            if attr.key == "value"
        }
        return {
            name: (value.tensor_content, [dim.size for dim in value.tensor_shape.dim])
            for name, value in values.items()
            if value.tensor_content
        }

    weights = thin_weights()
    assert constants(write_inception_graph(weights)) == constants(graph(weights))


def test_soft_truncation_s_file_gives_the_averages_and_not_the_raw_weights() -> None:
    network = NCSNppModule(image_size=4, nf=8, ch_mult=(1,), num_res_blocks=1, attn_resolutions=())
    data = write_soft_truncation(network.state_dict(), network.ema_names())
    assert same(
        read_weights(data, "soft_truncation", ema_names=network.ema_names()).tensors, network.state_dict()
    )
    raw = torch.load(io.BytesIO(data), weights_only=True)["model"]
    assert not torch.equal(raw["module.all_modules.0.weight"], network.state_dict()["all_modules.0.weight"])


def test_lsgm_s_file_gives_both_networks_and_the_run_s_arguments() -> None:
    prior, vae = LSGMPriorModule(**SMALL_PRIOR), {"stem.weight": torch.ones(2)}
    data = write_lsgm(prior.state_dict(), prior.ema_names(), vae, {"num_channels_dae": 8})
    found = read_weights(data, "lsgm", part="prior", ema_names=prior.ema_names())
    assert same(found.tensors, prior.state_dict()) and found.settings["args"] == {"num_channels_dae": 8}
    assert same(read_weights(data, "lsgm", part="vae").tensors, vae)


@pytest.mark.parametrize("as_path", [True, False])
def test_edm_s_pickle_gives_the_network_and_what_it_was_constructed_with(
    as_path: bool, tmp_path: Path
) -> None:
    options = {
        "img_resolution": 8,
        "img_channels": 3,
        "label_dim": 2,
        "model_channels": 8,
        "channel_mult": (1,),
        "num_blocks": 1,
    }
    network = EDMPrecond(SongUNetModule(**options, attn_resolutions=()))
    data = write_edm_pickle(network, init_kwargs=options)
    (tmp_path / "edm.pkl").write_bytes(data)
    found = read_weights(tmp_path / "edm.pkl" if as_path else data, "edm_pickle")
    assert same(found.tensors, network.state_dict())
    assert found.settings["class_name"] == "EDMPrecond" and found.settings["model"][
        "init_kwargs"
    ] == options | {"channel_mult": [1]}

"""The Inception network against torch-fidelity, clean-fid's and NVIDIA's front ends, and OpenAI's evaluator
on TensorFlow.

Weights by recipe; every size and output in the goldens is tested. Tolerances are of the largest value: 1e-5
against float32 (worst seen: 4e-6), 1e-4 against torch-fidelity in float64, which also resizes in float64
(worst seen: 1.3e-5, of it nearly all from the resize).
"""

import copy
import json
import re
from functools import cache

import numpy as np
import pytest
import torch
from parity import inception_recipe
from parity.metric_goldens import FOLDER
from torch import Tensor

from dgflow.metrics.front_ends import prepare
from dgflow.metrics.protocols import FrontEndName
from dgflow.networks.inception.module import InceptionFeatures, InceptionV3Module, accelerated

STORED = np.load(FOLDER / "inception.npz")
TENSORFLOW = np.load(FOLDER / "adm_tf_activations.npz")
SIZES = [int(key.removeprefix("img_")) for key in STORED.files if re.fullmatch(r"img_\d+", key)]
FLOAT32, FLOAT64 = 1e-5, 1e-4


def _sizes(key: str, stored: np.lib.npyio.NpzFile = STORED) -> list[int]:
    return [size for size in SIZES if key.format(size) in stored.files]


STORED_OUTPUTS = [(dtype, size) for dtype in ("f64", "f32") for size in _sizes(f"2048_{{}}_{dtype}")]


@pytest.fixture(scope="module")
def network() -> InceptionV3Module:
    network = InceptionV3Module()
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    network.load_state_dict(inception_recipe.weights(inception_recipe.seed_of(FOLDER), shapes))
    return network


@pytest.fixture(scope="module")
def fast(network) -> InceptionV3Module:
    return accelerated(network)


@pytest.fixture(scope="module")
def of_size(fast):
    """Float32 features of the stored images of one size through `adm`."""
    return cache(lambda size: fast(_prepared(size, "adm")))


def _prepared(size: int, front_end: FrontEndName) -> Tensor:
    return prepare(STORED[f"img_{size}"].transpose(0, 2, 3, 1), front_end)


def _assert_close(found: Tensor, expected: np.ndarray, of_max: float) -> None:
    assert found.shape == expected.shape
    assert float(np.abs(found.double().numpy() - expected).max()) <= of_max * float(np.abs(expected).max())


def _assert_features_close(
    network: InceptionV3Module, found: InceptionFeatures, size: int, dtype: str, of_max: float
) -> None:
    """Every stored output of the first images of that size, as many as were found."""
    logits = found.logits + network.fc.bias
    outputs = {
        "2048": found.pooled,
        "sfid2023_nhwc": found.spatial,
        "logits_unbiased": found.logits,
        "logits": logits,
    }
    for name, value in outputs.items():
        if (key := f"{name}_{size}_{dtype}") in STORED.files:
            _assert_close(value, STORED[key][: len(value)], of_max)


def test_the_folder_holds_sizes_and_every_tensor_of_the_recipe(network):
    recorded = json.loads((FOLDER / "inception_weights_checksums.json").read_text())
    state = network.state_dict()
    assert len(SIZES) >= 1 and len(state) == recorded["n_tensors"]
    for name, sums in recorded["checksums_sum_and_abssum"].items():
        values = state[name].double()
        assert [float(values.sum()), float(values.abs().sum())] == pytest.approx(sums, rel=1e-12)


@pytest.mark.parametrize(("dtype", "size"), STORED_OUTPUTS)
def test_all_outputs_equal_torch_fidelitys(fast, of_size, dtype, size):
    _assert_features_close(fast, of_size(size), size, dtype, FLOAT64 if dtype == "f64" else FLOAT32)


@pytest.mark.parametrize("size", (_sizes("64_{}_f32") or _sizes("2048_{}_f32"))[:1])
def test_inner_maps_of_the_published_form_equal_torch_fidelitys(network, size):
    means = {}
    taps = {
        "64": network.Conv2d_3b_1x1,
        "192": network.Mixed_5b,
        "768": network.Mixed_7a,
    }  # what goes into these
    hooks = [
        module.register_forward_pre_hook(
            lambda module, inputs, name=name: means.update({name: inputs[0].mean(dim=(2, 3))})
        )
        for name, module in taps.items()
    ]
    found = network(_prepared(size, "adm"))
    for hook in hooks:
        hook.remove()
    for name in taps:
        if (key := f"{name}_{size}_f32") in STORED.files:
            _assert_close(means[name], STORED[key], FLOAT32)
    _assert_features_close(network, found, size, "f32", FLOAT32)


@pytest.mark.parametrize(("dtype", "size"), STORED_OUTPUTS[:1])
def test_a_float64_network_gives_the_float64_truth_or_where_none_is_stored_the_float32_one(
    network, dtype, size
):
    exact = copy.deepcopy(network).double()
    _assert_features_close(exact, exact(_prepared(size, "adm")[:1].double()), size, dtype, FLOAT64)


@pytest.mark.parametrize("size", _sizes("pool3_{}", TENSORFLOW))
def test_all_outputs_equal_openais_evaluators_on_tensorflow(of_size, size):
    found = of_size(size)
    _assert_close(found.pooled, TENSORFLOW[f"pool3_{size}"], FLOAT32)
    _assert_close(found.spatial, TENSORFLOW[f"spatial2023_{size}"], FLOAT32)
    _assert_close(
        torch.softmax(found.logits.double(), dim=1), TENSORFLOW[f"softmax_unbiased_{size}"], 2 * FLOAT32
    )


@pytest.mark.parametrize("size", _sizes("2048_{}_edmresize_f32"))
def test_features_behind_the_edm_front_end_equal_those_of_nvidias_form(fast, size):
    _assert_close(fast(_prepared(size, "edm")).pooled, STORED[f"2048_{size}_edmresize_f32"], FLOAT32)


@pytest.mark.parametrize("size", _sizes("2048_{}_cleanresize_f32"))
def test_features_behind_the_clean_front_end_equal_those_behind_clean_fids(fast, size):
    _assert_close(fast(_prepared(size, "clean")).pooled, STORED[f"2048_{size}_cleanresize_f32"], FLOAT32)


@pytest.mark.parametrize("side", ["ref", "sample"])
def test_the_first_images_of_a_batch_file_give_openais_activations(fast, side):
    images = np.load(FOLDER / f"e2e_{side}.npz")["arr_0"][:8]
    _assert_close(
        fast(prepare(images, "adm")).pooled,
        np.load(FOLDER / "e2e_activations.npz")[f"{side}_pool"][:8],
        FLOAT32,
    )


@pytest.mark.slow
@pytest.mark.parametrize("side", ["ref", "sample"])
def test_a_whole_batch_file_gives_openais_activations(fast, side):
    images, expected = np.load(FOLDER / f"e2e_{side}.npz")["arr_0"], np.load(FOLDER / "e2e_activations.npz")
    found = [fast(prepare(images[first : first + 16], "adm")) for first in range(0, len(images), 16)]
    _assert_close(torch.cat([features.pooled for features in found]), expected[f"{side}_pool"], FLOAT32)
    _assert_close(
        torch.cat([features.spatial for features in found]).mean(dim=0),
        expected[f"{side}_spatial_mean"],
        FLOAT32,
    )

"""The Inception network against torch-fidelity's extractor with the same weights, and its own promises."""

from typing import Any

import pytest
import torch
from parity.inception_recipe import weights
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from dgflow.networks.inception.module import (
    InceptionFeatures,
    InceptionV3Module,
    _allows_tf32,
    accelerated,
    full_precision,
)


@pytest.fixture(scope="module")
def network() -> InceptionV3Module:
    network = InceptionV3Module()
    network.load_state_dict(
        weights(77, {name: tuple(value.shape) for name, value in network.state_dict().items()})
    )
    return network


@pytest.fixture(scope="module")
def fast(network) -> InceptionV3Module:
    return accelerated(network)


@pytest.fixture(scope="module")
def theirs(network, tmp_path_factory) -> FeatureExtractorInceptionV3:
    """torch-fidelity's extractor; it loads its weights strictly, so that every name and shape of ours is one
    of its."""
    norms = [
        name.removesuffix("running_mean") for name in network.state_dict() if name.endswith(".running_mean")
    ]
    counters = {f"{norm}num_batches_tracked": torch.tensor(0) for norm in norms}
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save({**network.state_dict(), **counters}, path)
    return FeatureExtractorInceptionV3(
        "theirs", ["2048", "logits_unbiased", "logits"], feature_extractor_weights_path=str(path)
    )


@pytest.fixture(scope="module")
def images() -> Tensor:
    """uint8 [3, 3, 299, 299], smooth and rough."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand((3, 3, 10, 10), generator=generator) * 200
    smooth = torch.nn.functional.interpolate(coarse, size=(299, 299), mode="bilinear")
    return (smooth + 55 * torch.rand(smooth.shape, generator=generator)).to(torch.uint8)


@pytest.fixture(scope="module")
def prepared(images) -> Tensor:
    return (images.float() - 128) / 128


@pytest.fixture(scope="module")
def features(network, prepared) -> InceptionFeatures:
    return network(prepared)


def _assert_close(found: Tensor, expected: Tensor, of_max: float) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= of_max * float(expected.abs().max())


def test_names_and_shapes_are_torch_fidelitys_but_for_the_counters(network, theirs):
    published = {
        name: value.shape
        for name, value in theirs.state_dict().items()
        if not name.endswith(".num_batches_tracked")
    }
    assert {name: value.shape for name, value in network.state_dict().items()} == published
    assert len(published) == 472


def test_features_and_logits_equal_torch_fidelitys(network, theirs, images, features):
    pooled, logits, biased = theirs(images)
    _assert_close(features.pooled, pooled, 1e-5)
    _assert_close(features.logits, logits, 1e-5)
    _assert_close(features.logits + network.fc.bias, biased, 1e-5)


def test_spatial_features_are_seven_channels_of_a_branch_with_the_channel_last(network, prepared, features):
    seen = []
    hook = network.Mixed_6d.branch1x1.register_forward_hook(
        lambda module, inputs, output: seen.append(output.clone())
    )
    network(prepared)
    hook.remove()
    assert features.spatial.shape == (3, 17 * 17 * 7)
    for row, column, channel in ((0, 0, 0), (4, 11, 6), (16, 16, 3)):
        assert torch.equal(
            features.spatial[:, (row * 17 + column) * 7 + channel], seen[0][:, channel, row, column]
        )


def test_the_accelerated_network_computes_the_same(fast, prepared, features):
    for found, expected in zip(fast(prepared), features, strict=True):
        _assert_close(found, expected, 1e-5)


def test_accelerating_leaves_the_published_weights_alone(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    accelerated(network)
    after = network.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_features_do_not_depend_on_the_batch_size(fast, prepared):
    together = fast(prepared)
    alone = [fast(image[None]) for image in prepared]
    for field in InceptionFeatures._fields:
        _assert_close(torch.cat([getattr(one, field) for one in alone]), getattr(together, field), 1e-5)


def test_features_do_not_depend_on_how_the_images_lie_in_memory(fast, prepared):
    expected = fast(prepared)
    for found, value in zip(
        fast(prepared.contiguous(memory_format=torch.channels_last)), expected, strict=True
    ):
        _assert_close(found, value, 1e-5)


def test_what_the_process_allows_of_lower_precision_does_not_reach_the_network(fast, prepared):
    expected = fast(prepared)
    mkldnn: Any = torch.backends.mkldnn
    conv, matmul = mkldnn.conv, mkldnn.matmul
    before = conv.fp32_precision, matmul.fp32_precision
    try:
        conv.fp32_precision = matmul.fp32_precision = "bf16"
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = fast(prepared)
        left = conv.fp32_precision, matmul.fp32_precision
    finally:
        conv.fp32_precision, matmul.fp32_precision = before
    assert left == ("bf16", "bf16")
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def _tf32_settings() -> list[Any]:
    """The settings of both of torch's interfaces, with None for one that it refuses to tell."""
    backends: Any = torch.backends
    new = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul)
    return [each.fp32_precision for each in new] + [
        _allows_tf32(backends.cuda.matmul),
        _allows_tf32(backends.cudnn),
    ]


@pytest.mark.parametrize("allow", [True, False])
@pytest.mark.parametrize("conv", [None, "ieee", "tf32"])
def test_both_interfaces_to_tf32_agree_inside_and_are_as_they_were_outside(allow, conv):
    backends: Any = torch.backends
    fresh = _tf32_settings()
    try:
        backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = allow
        if conv is not None:
            backends.cudnn.conv.fp32_precision = conv
        before = _tf32_settings()
        with full_precision(torch.device("cpu")):
            assert _tf32_settings() == ["ieee"] * 4 + [False, False]
        assert _tf32_settings() == before
    finally:
        backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32 = fresh[-2:]
        new = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul)
        for place, precision in zip(new, fresh[:-2], strict=True):
            place.fp32_precision = precision


def test_nothing_is_trained(network, prepared):
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not network(prepared[:1].clone().requires_grad_()).pooled.requires_grad


@pytest.mark.parametrize("shape", [(3, 299, 299), (1, 3, 256, 256), (1, 299, 299, 3)])
def test_images_that_are_not_prepared_are_refused(network, shape):
    with pytest.raises(ValueError, match=r"expected prepared images \[N, 3, 299, 299\], found"):
        network(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float64])
def test_images_of_another_dtype_than_the_weights_are_refused(network, dtype):
    with pytest.raises(ValueError, match=rf"expected images and weights both in float32.*found {dtype}"):
        network(torch.zeros((1, 3, 299, 299), dtype=dtype))


def test_a_network_in_half_precision_is_refused(prepared):
    with pytest.raises(ValueError, match="found torch.bfloat16 and torch.bfloat16"):
        InceptionV3Module().bfloat16()(prepared.bfloat16())

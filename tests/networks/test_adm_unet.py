"""ADM's U-Net: its start, independence of samples, precision and memory format, labels, and refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dgflow.networks.adm.layers import AttentionBlock, ResBlock
from dgflow.networks.adm.unet import ADMUNetModule

SMALL: dict[str, Any] = {"image_size": 16, "model_channels": 32, "out_channels": 6, "num_res_blocks": 1}
SMALL |= {"attention_resolutions": (2,), "channel_mult": (1, 2), "num_classes": 5, "num_head_channels": 16}
PLAIN: dict[str, Any] = {"use_scale_shift_norm": False, "resblock_updown": False, "num_classes": None}


def unet(randomise: bool = True, **changes: Any) -> ADMUNetModule:
    """A U-Net with every parameter random, since freshly built networks give zeros."""
    torch.manual_seed(0)
    network = ADMUNetModule(**SMALL | changes)
    if randomise:
        with torch.no_grad():
            for parameter in network.parameters():
                noise = torch.randn_like(parameter)
                parameter.copy_(
                    parameter + 0.2 * noise if parameter.ndim < 2 else noise / parameter[0].numel() ** 0.5
                )
    return network.eval()


def batch(size: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 3, 16, 16, generator=generator), torch.arange(size) * 300, torch.arange(size) % 5


def test_a_fresh_network_gives_zeros() -> None:
    assert torch.equal(unet(randomise=False)(*batch()), torch.zeros(3, 6, 16, 16))


@pytest.mark.parametrize("changes", [{}, PLAIN], ids=["published", "plain"])
def test_a_sample_gets_the_same_output_whoever_its_batch_mates_are(changes: dict[str, Any]) -> None:
    network, (x, t, labels) = unet(**changes), batch()
    given = (labels, labels.flip(0)) if network.num_classes else (None, None)
    expected = network(x, t, given[0])[1]
    others = torch.cat([5 * x[2:], x[1:2], x[:1] - 3])
    torch.testing.assert_close(
        network(others, torch.tensor([7, 300, 999]), given[1])[1], expected, rtol=1e-4, atol=1e-5
    )


def test_the_ascending_half_may_have_heads_of_its_own() -> None:
    heads: dict[str, Any] = {"num_head_channels": None, "num_heads": 2, "num_heads_upsample": 8}
    network = unet(**heads)
    found = {
        part: {module.num_heads for module in half.modules() if isinstance(module, AttentionBlock)}
        for part, half in network.named_children()
    }
    assert (found["input_blocks"], found["middle_block"], found["output_blocks"]) == ({2}, {2}, {8})
    as_below: dict[str, Any] = heads | {"num_heads_upsample": None}
    assert not torch.equal(network(*batch()), unet(**as_below)(*batch()))


def test_one_step_for_the_batch_equals_the_same_step_for_each_sample_and_whole_steps_equal_floats() -> None:
    network, (x, _, labels) = unet(), batch()
    expected = network(x, torch.full((3,), 40), labels)
    torch.testing.assert_close(network(x, torch.tensor([40]), labels), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(network(x, torch.full((3,), 40.0), labels), expected)


def test_one_hot_rows_mean_the_same_as_indices_and_other_labels_change_the_output() -> None:
    network, (x, t, labels) = unet(), batch()
    expected = network(x, t, labels)
    assert torch.equal(network(x, t, torch.eye(5)[labels]), expected)
    assert not torch.allclose(network(x, t, (labels + 1) % 5), expected, atol=1e-3)


def test_a_number_of_heads_means_the_same_as_channels_a_head() -> None:
    by_channels, by_number = (
        unet(channel_mult=(1, 1)),
        unet(channel_mult=(1, 1), num_head_channels=None, num_heads=2),
    )
    by_number.load_state_dict(by_channels.state_dict())
    assert torch.equal(by_number(*batch()), by_channels(*batch()))


def test_dropout_acts_in_training_only() -> None:
    network, inputs = unet(dropout=0.5), batch()
    assert torch.equal(network(*inputs), unet()(*inputs))
    assert not torch.equal(network.train()(*inputs), network(*inputs))


@pytest.mark.parametrize("changes", [{}, PLAIN], ids=["published", "plain"])
def test_weights_in_bfloat16_give_nearly_the_same_numbers_in_the_dtype_of_the_input(
    changes: dict[str, Any],
) -> None:
    network, (x, t, labels) = unet(**changes), batch()
    labels = labels if network.num_classes else None
    expected = network(x, t, labels)
    result = network.to(torch.bfloat16)(x, t, labels)
    assert result.dtype == torch.float32
    assert (result - expected).norm() < 0.02 * expected.norm()


def test_the_memory_format_changes_nothing() -> None:
    network, inputs = unet(), batch()
    expected = network(*inputs)
    result = network.to(memory_format=torch.channels_last)(*inputs)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("new_order", [False, True], ids=["legacy", "new"])
def test_layers_given_channels_last_images_give_channels_last_images(new_order: bool) -> None:
    x, emb = torch.randn(2, 64, 8, 8).contiguous(memory_format=torch.channels_last), torch.randn(2, 16)
    layers = (
        AttentionBlock(64, 2, new_order),
        lambda x: ResBlock(64, 64, 16, use_scale_shift_norm=True, resample="up").to(
            memory_format=torch.channels_last
        )(x, emb),
    )
    for layer in layers:
        assert layer(x).is_contiguous(memory_format=torch.channels_last)


def test_the_forward_pass_needs_no_value_on_the_host() -> None:
    x, t, labels = (tensor.to("meta") for tensor in batch())
    assert unet().to("meta")(x, t, labels).shape == (3, 6, 16, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_channels": 48}, "multiple of 32"),
        ({"num_head_channels": 24}, "heads of 24"),
        ({"num_head_channels": None, "num_heads": 7}, "7 heads"),
        ({"image_size": 15}, "cannot be halved 1 times"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_reason(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ADMUNetModule(**SMALL | changes)


def test_labels_that_the_network_cannot_use_are_refused() -> None:
    x, t, labels = batch()
    with pytest.raises(ValueError, match="without classes"):
        unet(num_classes=None)(x, t, labels)
    with pytest.raises(ValueError, match="needs class_labels"):
        unet()(x, t)
    with pytest.raises(ValueError, match=r"one-hot \[B, K\] with K <= 5"):
        unet()(x, t, torch.rand(3, 6))

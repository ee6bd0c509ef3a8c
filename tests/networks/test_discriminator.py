"""The discriminator and its ADM encoders: gradients, independence of samples, frozen features, training, and
refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dgflow.networks.adm.encoder import ADMEncoderModule
from dgflow.networks.adm.layers import GroupNorm
from dgflow.networks.discriminator.module import DiscriminatorModule

EXTRACTOR: dict[str, Any] = {
    "image_size": 16,
    "in_channels": 3,
    "model_channels": 32,
    "out_channels": 10,
    "num_res_blocks": 1,
}
EXTRACTOR |= {"attention_resolutions": (2,), "channel_mult": (1, 1), "num_head_channels": 16}
HEAD = EXTRACTOR | {
    "image_size": 8,
    "in_channels": 32,
    "out_channels": 1,
    "attention_resolutions": (0, 1),
    "channel_mult": (1,),
}


def discriminator(num_classes: int | None = 10, **changes: Any) -> DiscriminatorModule:
    """A discriminator in float64, with every parameter random: freshly built networks are almost constant,
    since their branches end in zeros.
    """
    torch.manual_seed(0)
    network = DiscriminatorModule(
        ADMEncoderModule(**EXTRACTOR, **changes), ADMEncoderModule(**HEAD, num_classes=num_classes, **changes)
    ).double()
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(
                parameter + 0.2 * noise if parameter.ndim < 2 else noise / parameter[0].numel() ** 0.5
            )
    return network


def batch(size: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(size, 3, 16, 16, dtype=torch.float64, generator=generator)
    return x, torch.rand(size, dtype=torch.float64, generator=generator), torch.arange(size) % 10


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pool": "adaptive"},
        {"use_scale_shift_norm": False},
        {"resblock_updown": False},
        {"new_attention_order": True},
    ],
    ids=lambda changes: "-".join(changes) or "published",
)
def test_the_gradient_with_respect_to_the_sample_agrees_with_finite_differences(
    changes: dict[str, Any],
) -> None:
    network = discriminator(**changes)
    x, t, labels = batch()
    gradient = torch.autograd.grad(network(x.requires_grad_(), t, labels).sum(), x)[0]
    direction = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    step = 1e-5
    with torch.no_grad():
        difference = (network(x + step * direction, t, labels) - network(x - step * direction, t, labels)) / (
            2 * step
        )
    torch.testing.assert_close((gradient * direction).sum((1, 2, 3)), difference, rtol=1e-6, atol=1e-9)
    assert difference.abs().min() > 1e-3


def test_a_sample_gets_the_same_logit_and_gradient_whoever_its_batch_mates_are() -> None:
    network = discriminator()

    def evaluate(x: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone().requires_grad_()
        logit = network(x, t, labels)
        return logit.detach(), torch.autograd.grad(logit.sum(), x)[0]

    x, t, labels = batch(4)
    logit, gradient = evaluate(x, t, labels)
    x_other, t_other, labels_other = x.clone(), t.clone(), labels.clone()
    x_other[1:], t_other[1:], labels_other[1:] = 5 * x[1:].flip(0), 0.5, 7
    for logit_other, gradient_other in (
        evaluate(x_other, t_other, labels_other),
        evaluate(x[:1], t[:1], labels[:1]),
    ):
        torch.testing.assert_close(logit_other[:1], logit[:1], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient_other[:1], gradient[:1], rtol=1e-11, atol=1e-12)


def test_one_time_for_the_batch_equals_the_same_time_given_for_each_sample() -> None:
    network, (x, _, labels) = discriminator(), batch()
    torch.testing.assert_close(
        network(x, torch.tensor([0.3]), labels),
        network(x, torch.full((3,), 0.3), labels),
        rtol=1e-12,
        atol=1e-12,
    )


def test_time_in_unit_interval_times_999_equals_the_integer_step() -> None:
    unit = ADMEncoderModule(**EXTRACTOR)
    steps = ADMEncoderModule(**EXTRACTOR, time_scale=1.0)
    steps.load_state_dict(unit.state_dict())
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(unit(x, torch.tensor([0.0, 1.0])), steps(x, torch.tensor([0, 999])))


def test_the_logit_is_the_head_on_the_features_of_the_extractor() -> None:
    network, (x, t, labels) = discriminator(), batch()
    assert network.features is not None
    assert torch.equal(network(x, t, labels), network.head(network.features.features(x, t), t, labels)[:, 0])
    assert torch.equal(
        DiscriminatorModule(None, network.head)(network.features.features(x, t), t, labels),
        network(x, t, labels),
    )


def test_labels_change_the_logit_and_one_hot_rows_mean_the_same_as_indices() -> None:
    network, (x, t, labels) = discriminator(), batch()
    assert torch.equal(network(x, t, torch.eye(10)[labels]), network(x, t, labels))
    assert not torch.isclose(network(x, t, labels + 1), network(x, t, labels)).any()


def test_an_unconditional_head_ignores_labels_and_a_conditional_one_asks_for_them() -> None:
    x, t, labels = batch()
    unconditional = discriminator(num_classes=None)
    assert torch.equal(unconditional(x, t, labels), unconditional(x, t))
    with pytest.raises(ValueError, match="needs class_labels"):
        discriminator()(x, t)


def test_the_logit_is_not_clipped() -> None:
    network, (x, t, labels) = discriminator(), batch()
    with torch.no_grad():
        network.get_parameter("head.out.2.c_proj.weight").mul_(1e4)
    x.requires_grad_()
    logit = network(x, t, labels)
    assert logit.abs().min() > 20
    assert (torch.autograd.grad(logit.sum(), x)[0].flatten(1).abs().amax(1) > 0).all()


def test_one_training_step_lowers_the_loss_and_leaves_the_extractor_alone() -> None:
    torch.manual_seed(3)
    network = DiscriminatorModule(ADMEncoderModule(**EXTRACTOR), ADMEncoderModule(**HEAD))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    x, t, is_real = torch.randn(16, 3, 16, 16), torch.rand(16), (torch.arange(16) % 2).float()
    x += is_real[:, None, None, None]
    optimizer = torch.optim.Adam(
        [parameter for parameter in network.parameters() if parameter.requires_grad], lr=1e-3
    )

    def loss() -> Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(network(x, t), is_real)

    first = loss()
    first.backward()
    optimizer.step()
    assert loss() < first
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and all(name.startswith("head.") for name in changed)
    assert all(
        parameter.grad is None
        for name, parameter in network.named_parameters()
        if name.startswith("features.")
    )


def test_pooled_features_times_the_last_layer_are_the_adaptive_logits() -> None:
    torch.manual_seed(4)
    encoder = ADMEncoderModule(**EXTRACTOR, pool="adaptive")
    weight, bias = encoder.get_parameter("out.3.weight"), encoder.get_parameter("out.3.bias")
    torch.nn.init.normal_(weight)
    x, t = torch.randn(2, 3, 16, 16), torch.rand(2)
    pooled = encoder.pooled(encoder.features(x, t))
    assert pooled.shape == (2, encoder.feature_channels)
    torch.testing.assert_close(pooled @ weight.flatten(1).T + bias, encoder(x, t))
    with pytest.raises(ValueError, match='network with pool="adaptive"'):
        ADMEncoderModule(**EXTRACTOR).pooled(encoder.features(x, t))


def test_group_norm_is_computed_in_float32_when_the_network_is_in_half_precision() -> None:
    torch.manual_seed(5)
    norm = GroupNorm(32).bfloat16()
    x = (1000 + torch.randn(2, 32, 8, 8)).bfloat16()
    expected = torch.nn.functional.group_norm(
        x.float(), 32, torch.ones(32), torch.zeros(32), norm.eps
    ).bfloat16()
    assert torch.equal(norm(x), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_channels": 48}, "multiple of 32"),
        ({"channel_mult": (0.5, 1)}, "multiple of 32"),
        ({"num_head_channels": 24}, "heads of 24"),
        ({"image_size": 15}, "cannot be halved 1 times"),
        ({"pool": "spatial"}, 'expected pool "attention"'),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_reason(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ADMEncoderModule(**EXTRACTOR | changes)


def test_labels_that_an_encoder_cannot_use_are_refused() -> None:
    x, t = torch.randn(2, 3, 16, 16), torch.rand(2)
    conditional = ADMEncoderModule(**EXTRACTOR, num_classes=10)
    for labels in (torch.rand(2), torch.rand(2, 11), torch.zeros(2, 1, 10)):
        with pytest.raises(ValueError, match=r"one-hot \[B, K\] with K <= 10"):
            conditional(x, t, labels)
    with pytest.raises(ValueError, match="needs class_labels"):
        conditional(x, t)


def test_an_encoder_without_classes_ignores_labels() -> None:
    torch.manual_seed(0)
    x, t = torch.randn(2, 3, 16, 16), torch.rand(2)
    encoder = ADMEncoderModule(**EXTRACTOR).eval()
    for labels in (torch.tensor([0, 1]), torch.eye(2)):
        assert torch.equal(encoder(x, t, labels), encoder(x, t))


@pytest.mark.parametrize(
    ("extractor", "head", "message"),
    [
        ({}, {"out_channels": 2}, "one output"),
        ({"num_classes": 10}, {}, "must be unconditional"),
        ({}, {"in_channels": 64}, "found one for 64 of 8 x 8"),
        ({}, {"image_size": 16}, "found one for 32 of 16 x 16"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    extractor: dict[str, Any], head: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        DiscriminatorModule(ADMEncoderModule(**EXTRACTOR | extractor), ADMEncoderModule(**HEAD | head))

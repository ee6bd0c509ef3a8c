"""The perceptron: its formula, data of any shape, gradients that guide, and its part in a discriminator."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from steps.toy_networks import HEAD

import dgflow as dg
from dgflow.diffusion.times import cosine_from_sigma
from dgflow.networks.discriminator.module import DiscriminatorModule
from dgflow.networks.perceptron.module import PerceptronModule
from dgflow.networks.roles import HeadSpec
from dgflow.specs.bound import Bound
from dgflow.specs.network import DataShape
from dgflow.specs.step import here
from dgflow.store.memory import MemoryStore
from dgflow.weights.tensors import load_weights

PLANE = DataShape(image_size=1, channels=2, num_classes=0)


def perceptron(shape: DataShape = PLANE, width: int = 24, layers: int = 3) -> PerceptronModule:
    """A perceptron in float64, including a random last layer."""
    torch.manual_seed(0)
    network = dg.Perceptron(width=width, layers=layers).head(**shape._asdict()).double()
    assert isinstance(network, PerceptronModule)
    torch.nn.init.normal_(network.last.weight)
    return network


def points(size: int, shape: DataShape = PLANE) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    sides = (shape.channels, shape.image_size, shape.image_size)
    x = torch.randn(size, *sides, dtype=torch.float64, generator=generator)
    return x, torch.rand(size, dtype=torch.float64, generator=generator)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def test_logits_are_those_of_the_formula_in_numpy():
    shape = DataShape(image_size=2, channels=3, num_classes=4)
    network, (x, t) = perceptron(shape), points(5, shape)
    labels = torch.tensor([0, 3, 1, 1, 2])
    weights = {name: value.detach().numpy() for name, value in network.state_dict().items()}

    def linear(name: str, value: np.ndarray) -> np.ndarray:
        return value @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    steps = 999 * t.numpy()[:, None] * 10_000 ** (-np.arange(64) / 64)
    embedded = linear("time_embed", np.concatenate([np.cos(steps), np.sin(steps)], axis=1))
    embedded = embedded + weights["label_emb.weight"][labels.numpy()]
    scale, shift = np.split(linear("scale_shift", silu(embedded)), 2, axis=1)
    h = silu(linear("first", x.numpy().reshape(5, 12)) * (1 + scale) + shift)
    for number in range(2):
        h = silu(linear(f"hidden.{number}", h))
    # The frequencies are float32, so angles of up to 999 differ by 999 * 2^-24 = 6e-5 and more.
    assert np.allclose(linear("last", h), network(x, t, labels).detach().numpy(), atol=1e-3)


def test_width_and_layers_are_those_of_the_paper_by_default():
    network = dg.Perceptron().head(**PLANE._asdict())
    assert isinstance(network, PerceptronModule)
    assert [layer.weight.shape for layer in (network.first, *network.hidden)] == [(256, 2), *3 * [(256, 256)]]


def test_an_untrained_discriminator_guides_nowhere():
    torch.manual_seed(3)
    network = DiscriminatorModule(None, dg.Perceptron().head(**PLANE._asdict()))
    x, t = points(4)
    y = x.float().requires_grad_()
    logits = network(y, t.float())
    (gradient,) = torch.autograd.grad(logits.sum(), y)
    assert logits.shape == (4,) and not logits.any() and not gradient.any()


def test_the_gradient_to_the_sample_is_that_of_differences_and_has_a_derivative_itself():
    network, (x, t) = perceptron(), points(3)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: network(x, t), x)
    assert torch.autograd.gradgradcheck(lambda x: network(x, t), x)


def test_a_sample_does_not_depend_on_its_batch():
    network, (x, t) = perceptron(), points(6)
    alone = torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(6)])
    assert torch.allclose(network(x, t), alone, rtol=0, atol=1e-12)


def test_positions_and_logits_keep_float32_in_bfloat16():
    """Samples that bfloat16 cannot tell apart have different logits, and these are not rounded to it."""
    network = perceptron().float()
    half = perceptron().bfloat16()
    x = torch.tensor([1.0, 1.0 + 2.0**-10]).reshape(2, 1, 1, 1).repeat(1, 2, 1, 1)
    t = torch.full((2,), 0.3)
    assert x.bfloat16()[0].equal(x.bfloat16()[1])
    logits = half(x, t)
    assert logits.dtype == torch.float32 and logits[0] != logits[1]
    assert torch.allclose(logits, network(x, t), atol=0.1)


def test_an_unconditional_one_ignores_labels_and_a_conditional_one_needs_them():
    x, t = points(3)
    labels = torch.tensor([0, 1, 2])
    plain, told = perceptron(), perceptron(PLANE._replace(num_classes=3))
    assert plain(x, t, labels).equal(plain(x, t))
    assert told(x, t, labels).equal(told(x, t, F.one_hot(labels, 3)))
    assert not told(x, t, labels).equal(told(x, t, labels.flip(0)))
    with pytest.raises(ValueError, match="needs class_labels"):
        told(x, t)


def test_as_a_head_on_features_it_takes_their_time():
    """The cosine time of the classifier, and what its middle block gives."""
    classifier = dg.Pretrained(
        source="classifier.pt",
        network=HEAD.model_copy(update={"time": "cosine-vp"}),
        image_size=8,
        num_classes=5,
    )
    spec = dg.Discriminator(head=dg.Perceptron(width=8, layers=1), features=classifier.weights())
    sigma = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)
    assert spec.time_map()(sigma).equal(cosine_from_sigma(sigma))
    network = spec.assemble(DataShape(8, 3, 0), lambda field: classifier.fresh())
    assert isinstance(network, DiscriminatorModule)
    assert spec.kept(network).get_submodule("first").in_features == HEAD.model_channels * 8**2
    assert network(torch.zeros(2, 3, 8, 8), torch.full((2,), 0.5)).shape == (2,)
    with pytest.raises(ValueError, match="time to be that of its features, cosine-vp, found ddpm-linear"):
        dg.Discriminator(head=dg.Perceptron(time="ddpm-linear"), features=classifier.weights())


def test_a_file_of_it_is_read_and_refused_with_other_settings(tmp_path):
    spec = dg.Discriminator(head=dg.Perceptron(width=8, layers=2))
    source = tmp_path / "head.safetensors"
    step = dg.Pretrained(source=str(source), network=spec, image_size=1, channels=2)
    network = step.build(Bound())
    with torch.no_grad():
        spec.fill(network)
    source.write_bytes(spec.write("safetensors", network, step.shape))
    read = load_weights(step.compute(Bound(), here, MemoryStore("read")))
    assert read.keys() == spec.kept(network).state_dict().keys()
    assert all(value.equal(read[name]) for name, value in spec.kept(network).state_dict().items())
    wider = step.model_copy(update={"network": dg.Discriminator(head=dg.Perceptron(width=9, layers=2))})
    with pytest.raises(ValueError, match="shape"):
        wider.compute(Bound(), here, MemoryStore("refused"))


def test_another_network_in_its_place_is_refused_in_words():
    with pytest.raises(ValueError, match="found a SongUNet; heads of discriminators are written as ADMEnc"):
        dg.Discriminator(head=dg.SongUNet())  # type: ignore[arg-type]


def test_a_head_from_outside_that_gives_more_than_one_logit_is_refused():
    class Pair(HeadSpec):
        def head(self, *, image_size, channels, num_classes):
            class Network(torch.nn.Module):
                def forward(self, x, t, labels):
                    return torch.zeros(len(x), 2)

            return Network()

    network = dg.Discriminator(head=Pair()).build(**PLANE._asdict())
    with pytest.raises(ValueError, match=r"one logit per sample from the head, \[B, 1\], found \[3, 2\]"):
        network(*points(3))

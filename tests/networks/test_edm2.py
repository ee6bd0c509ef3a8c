"""EDM2's network: unit magnitudes, conventions of sigma and labels, forced weight normalisation,
independence, precision, and files in half precision."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

import dgflow as dg
from dgflow.diffusion.acceleration import autocast, prepared
from dgflow.networks.edm.file import read_edm_pickle
from dgflow.networks.edm.file_writer import Persistent, write_edm_pickle
from dgflow.networks.edm2.layers import MPConv, MPFourier, mp_cat, mp_silu, mp_sum, normalized, resampled
from dgflow.networks.edm2.preconditioner import Precond, in_half
from dgflow.specs.bound import Bound
from dgflow.specs.network import DataShape
from dgflow.specs.step import here
from dgflow.store.open import open_store
from dgflow.weights.tensors import load_weights

SPEC = dg.EDM2UNet(
    model_channels=8, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(4,), channels_per_head=8
)
SHAPE = DataShape(8, 3, 5)
SIGMA = torch.tensor([0.5, 1.0, 2.0])
LABELS = torch.tensor([0, 4, 2])


def fresh(**changes: Any) -> Any:
    torch.manual_seed(0)
    return SPEC.model_copy(update=changes).build(**SHAPE._asdict())


def filled(**changes: Any) -> Precond:
    """A network with gains of one instead of their initial zero."""
    network = fresh(**changes)
    with torch.no_grad():
        SPEC.fill(network)
    return network.eval()


@pytest.fixture(scope="module")
def network() -> Precond:
    return filled().requires_grad_(False)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def magnitude(x: Tensor) -> float:
    return float(x.detach().square().mean().sqrt())


IMAGES = normal(3, 3, 8, 8)


def test_a_fresh_denoiser_is_the_optimal_one_for_gaussian_data_since_its_gain_is_zero() -> None:
    expected = IMAGES * (0.25 / (SIGMA**2 + 0.25))[:, None, None, None]
    torch.testing.assert_close(fresh()(IMAGES, SIGMA, LABELS), expected)


def test_layers_keep_unit_magnitude() -> None:
    torch.manual_seed(2)
    a, b = normal(64, 256), torch.randn(64, 256)
    for values in (
        MPConv(256, 300)(a),
        mp_silu(a),
        mp_sum(a, b, 0.3),
        mp_cat(a[:, :, None, None], b[:, :32, None, None], 0.5),
        MPFourier(256)(torch.linspace(-3, 3, 64)),
        normalized(7 * a, [1]),
    ):
        assert magnitude(values) == pytest.approx(1, abs=0.05)


def test_a_concatenation_weighs_both_parts_alike_whatever_their_widths() -> None:
    parts = mp_cat(normal(8, 96, 4, 4), normal(8, 32, 4, 4), 0.5).split([96, 32], dim=1)
    assert float(parts[0].norm()) == pytest.approx(float(parts[1].norm()), rel=0.03)


def test_the_scale_of_weights_does_not_matter() -> None:
    layer, x = MPConv(16, 8, (3, 3)), normal(2, 16, 4, 4)
    before = layer(x, gain=2.0)
    layer.eval()
    with torch.no_grad():
        layer.weight.mul_(50)
    torch.testing.assert_close(layer(x, gain=2.0), before, rtol=1e-3, atol=1e-3)


def test_training_brings_the_stored_weights_to_unit_magnitude_and_sampling_leaves_them() -> None:
    network = fresh()
    weight = network.unet.out_conv.weight
    with torch.no_grad():
        weight.mul_(3)
    before = weight.detach().clone()
    network.eval()(IMAGES, SIGMA, LABELS)
    assert torch.equal(weight, before)
    network.train()(IMAGES, SIGMA, LABELS)
    norms = weight.detach().flatten(1).square().mean(1).sqrt()
    torch.testing.assert_close(norms, torch.ones(3), rtol=1e-3, atol=0)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_the_box_filter_is_the_general_one_and_every_filter_keeps_the_mean(direction: Any) -> None:
    box = resampled(IMAGES, direction, [1, 1])
    torch.testing.assert_close(box, resampled(IMAGES, direction, [0.5, 0.5]))
    assert box.shape[-1] == (16 if direction == "up" else 4)
    inside = resampled(torch.ones(1, 2, 16, 16), direction, [1, 3, 3, 1])[:, :, 2:-2, 2:-2]
    torch.testing.assert_close(inside, torch.ones_like(inside))


@torch.no_grad()
def test_a_training_step_reaches_every_parameter_of_the_unet() -> None:
    network = filled(dropout=0.1).train()
    with torch.enable_grad():
        error = (network(IMAGES, SIGMA, LABELS) - 1).square().flatten(1).mean(1)
        u = network.log_variance(SIGMA)
        (error / u.exp() + u).sum().backward()
    assert not [name for name, parameter in network.named_parameters() if parameter.grad is None]


def test_sigma_and_labels_have_several_forms(network: Precond) -> None:
    each = network(IMAGES, torch.full((3,), 0.7), LABELS)
    for one in (torch.tensor(0.7), torch.tensor([0.7])):
        torch.testing.assert_close(network(IMAGES, one, LABELS), each, rtol=1e-5, atol=1e-6)
    assert torch.equal(network(IMAGES, SIGMA, LABELS), network(IMAGES, SIGMA, torch.eye(5)[LABELS]))
    torch.testing.assert_close(network(IMAGES, SIGMA), network(IMAGES, SIGMA, torch.zeros(3, 5)))
    assert not torch.allclose(network(IMAGES, SIGMA), network(IMAGES, SIGMA, LABELS), atol=1e-3)
    with pytest.raises(ValueError, match=r"one-hot \[B, 5\]"):
        network(IMAGES, SIGMA, torch.zeros(3, 4))


def test_a_sample_is_denoised_the_same_whoever_its_batch_mates_are(network: Precond) -> None:
    expected = network(IMAGES, SIGMA, LABELS)[:1]
    alone = network(IMAGES[:1], SIGMA[:1], LABELS[:1])
    others = torch.cat([IMAGES[:1], 10 * IMAGES[1:].flip(0)])
    mates = network(others, torch.tensor([0.5, 40.0, 0.01]), torch.tensor([0, 3, 3]))[:1]
    for found in (alone, mates):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_bfloat16_is_close_to_float32_and_leaves_frequencies_alone(network: Precond) -> None:
    expected = network(IMAGES, SIGMA, LABELS)
    half: Any = prepared(filled(), precision="bfloat16")
    found = half(IMAGES, SIGMA, LABELS)
    assert found.dtype == torch.float32
    assert 0 < float((found - expected).norm() / expected.norm()) < 0.03
    assert torch.equal(half.unet.emb_fourier.freqs, network.unet.emb_fourier.freqs)
    with autocast(torch.device("cpu"), "bfloat16"):
        mixed = network(IMAGES, SIGMA, LABELS)
    assert 0 < float((mixed - expected).norm() / expected.norm()) < 0.03


def test_levels_too_narrow_for_a_head_have_no_attention() -> None:
    names = fresh(channels_per_head=64).state_dict()
    assert not [name for name in names if "attn" in name]


@torch.no_grad()
@pytest.mark.parametrize("bound", [0.1, None])
def test_activations_are_clipped(bound: float | None) -> None:
    network, largest = filled(clip_act=bound), list[float]()
    for part in (network.unet.enc, network.unet.dec):
        for name, module in part.items():
            if not name.endswith("conv"):
                module.register_forward_hook(lambda *args: largest.append(float(args[2].abs().max())))
    network(IMAGES, SIGMA, LABELS)
    assert len(largest) == 10
    if bound is None:
        assert min(largest) > 1
    else:
        assert max(largest) == pytest.approx(bound)


def written(network: Precond, **options: Any) -> bytes:
    """A file with what lies beside the network in the published ones."""
    encoder = {"type": "class", "state": {"scale": np.ones(4, np.float32), "raw_mean": [5.81]}}
    options |= {"beside": {"encoder": Persistent(encoder), "loss_fn": None}}
    return write_edm_pickle(in_half(network), init_kwargs=SPEC.arguments(SHAPE), **options)


def pretrained(file: Path, **changes: Any) -> dg.Pretrained:
    network, sizes = SPEC.model_copy(update=changes), cast(Any, SHAPE._asdict())
    return dg.Pretrained(source=str(file), network=network, format="edm_pickle", **sizes)


def computed(step: dg.Pretrained, root: Path) -> dict[str, Tensor]:
    return load_weights(step.compute(Bound(), here, open_store(str(root))))


def test_a_file_in_half_precision_is_read_without_running_it_and_becomes_float32(
    network: Precond, tmp_path: Path
) -> None:
    file, mark = tmp_path / "net.pkl", tmp_path / "executed"
    file.write_bytes(written(network, source=f"open({str(mark)!r}, 'w').close()"))
    stored = read_edm_pickle(file).tensors
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16} and not mark.exists()
    tensors, expected = computed(pretrained(file), tmp_path / "root"), network.state_dict()
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, expected[name].half().float())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma_data": 0.7}, r"sigma_data is 0\.5 in the file and 0\.7 .*write sigma_data=0\.5"),
        ({"res_balance": 0.5}, r"res_balance is 0\.3 in the file"),
    ],
)
def test_settings_that_a_file_tells_are_compared(
    network: Precond, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    file = tmp_path / "net.pkl"
    file.write_bytes(written(network))
    with pytest.raises(ValueError, match=message):
        computed(pretrained(file, **changes), tmp_path / "root")


def test_a_file_of_another_class_is_refused(network: Precond, tmp_path: Path) -> None:
    file = tmp_path / "edm.pkl"
    song = dg.SongUNet(model_channels=8, channel_mult=(1,), num_blocks=1, attn_resolutions=())
    other: Any = song.build(**SHAPE._asdict())
    file.write_bytes(song.write("edm_pickle", other, SHAPE))
    with pytest.raises(ValueError, match="class_name is 'EDMPrecond' in the file and 'Precond'"):
        SPEC.read(file, "edm_pickle", network=network, shape=SHAPE, source="edm.pkl")


def test_a_published_size_is_named_in_one_word() -> None:
    assert dg.edm2("xxl", latent=True) == dg.EDM2UNet(model_channels=448, dropout=0.1, latent=True)
    assert dg.edm2("s") == dg.EDM2UNet()
    with pytest.raises(ValueError, match="expected one of the sizes xxs, xs, .*found 'xxxl'"):
        dg.edm2("xxxl")

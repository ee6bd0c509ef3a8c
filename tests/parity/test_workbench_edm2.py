"""EDM2's network, autoencoder and guided sampler give the reference implementation's numbers, and the network
has its parameter names and shapes at full size."""

import json
from itertools import count
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from parity import goldens
from parity.goldens import Case
from torch import Tensor

import dgflow as dg
from dgflow.diffusion.correction_settings import NetworkSettings
from dgflow.diffusion.corrections import NetworkCorrection
from dgflow.diffusion.score_model import ScoreModel
from dgflow.networks.edm2.preconditioner import Precond
from dgflow.networks.edm2.unet import Block
from dgflow.networks.edm2.vae import EDM2VAEModule
from dgflow.specs.network import DataShape
from dgflow.steps.pixels import pixels
from dgflow.steps.training.rows import scaled
from dgflow.weights.tensors import load_into


def is_network(case: Case) -> bool:
    return case.config.get("class") == "Precond" and "out_D" in case.entry["arrays"]


def is_sampler(case: Case) -> bool:
    return "networks_edm2" in case.reference and {"net", "sampler"} <= case.config.keys()


def is_latents(case: Case) -> bool:
    return {"raw_mean", "raw_std", "final_std"} <= case.config.keys()


def is_loss(case: Case) -> bool:
    return "EDM2Loss" in case.reference


CLAIMS = [is_network, is_sampler, is_latents, is_loss]


def precond(kwargs: dict[str, Any], weights: dict[str, Tensor]) -> Precond:
    """Built by the spec, from the arguments of the reference's class."""
    fields = {name: value for name, value in kwargs.items() if name != "use_fp16"}  # of CUDA alone
    sizes = {
        name: fields.pop(theirs)
        for name, theirs in (
            ("image_size", "img_resolution"),
            ("channels", "img_channels"),
            ("num_classes", "label_dim"),
        )
    }
    network: Any = dg.EDM2UNet(**fields).build(**sizes)
    load_into(network, weights, source="net")
    return network.eval()


@torch.no_grad()
@pytest.mark.parametrize("case", goldens.cases(is_network, "workbench"))
def test_a_network_gives_the_reference_s_numbers(case: Case) -> None:
    config, arrays, weights = goldens.load(case)
    network = precond(config["kwargs"], weights["net"])
    x, sigma, labels = arrays["in_x"], arrays["in_sigma"], arrays.get("in_labels")
    outputs: dict[str, Tensor] = {}
    magnitudes: dict[str, Tensor] = {}

    def record_input(_: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs.update({"out_model_x": inputs[0], "out_c_noise": inputs[1], "out_F": output})

    hooks = [network.unet.register_forward_hook(record_input)]
    for part in ("enc", "dec"):
        for name, module in getattr(network.unet, part).items():
            name = f"{part}.{name}"
            hooks.append(
                module.register_forward_hook(
                    lambda _, __, output, name=name: magnitudes.update(
                        {name: output.double().square().mean().sqrt()}
                    )
                )
            )
    outputs["out_D"] = network(x, sigma, labels)
    outputs["out_block_rms"] = torch.stack([magnitudes[name] for name in config["block_names"]])
    for hook in hooks:
        hook.remove()
    outputs["out_logvar"] = network.log_variance(sigma)[:, None, None, None]
    # One level for all samples: the sample that it belongs to comes out as before.
    shared = (arrays["out_D_single_sigma"] - arrays["out_D"]).flatten(1).abs().amax(dim=1).argmin()
    outputs["out_D_single_sigma"] = network(x, sigma[shared], labels)
    if labels is not None:
        outputs["out_D_labels_none"] = network(x, sigma)
        assert torch.equal(network(x, sigma, labels.argmax(dim=1)), outputs["out_D"])
    assert outputs.keys() == {name for name in arrays if name.startswith("out_")}
    for name, output in outputs.items():
        goldens.close(case, name, output, arrays[name], of_max=2e-5)


@pytest.mark.parametrize("case", goldens.cases(is_loss, "workbench"))
def test_gradients_reach_gain_and_uncertainty_as_in_the_reference(case: Case) -> None:
    """Gradients of the training loss: the weighted error over exp(u), plus u, with the learned uncertainty
    u.
    """
    config, arrays, weights = goldens.load(case)
    network, settings = precond(config["net"], weights["net"]), config["loss"]
    images, normal = arrays["in_images"], arrays["in_rnd_normal"]
    sigma = (settings["P_mean"] + settings["P_std"] * normal).exp()
    weight = (sigma**2 + network.sigma_data**2) / (sigma * network.sigma_data) ** 2
    denoised = network(images + sigma * arrays["in_noise"], sigma, arrays["in_labels"])
    u = network.log_variance(sigma)[:, None, None, None]
    loss = weight / u.exp() * (denoised - images) ** 2 + u
    loss.sum().backward()
    goldens.close(case, "loss", loss, arrays["out_loss"], of_max=1e-4)
    for name, parameter in (
        ("grad_out_gain", network.unet.out_gain),
        ("grad_logvar_weight", network.logvar_linear.weight),
    ):
        goldens.close(case, name, cast(Tensor, parameter.grad), arrays[f"out_{name}"], rtol=1e-3, of_max=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("case", goldens.cases(is_sampler, "workbench"))
def test_the_guided_sampler_follows_the_reference_s_path(case: Case) -> None:
    """Computed in float64; the reference's state is float32 by default."""
    config, arrays, weights = goldens.load(case)
    settings = {name: value for name, value in config["sampler"].items() if name != "dtype"}
    weight, steps = float(settings.pop("guidance")), settings.pop("num_steps")
    network, *others = (precond(config[name], weights[name]) for name in ("net", "gnet") if name in weights)
    other = others[0] if others else network  # which weight 1 never asks
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {"net": [], "gnet": []}
    draws = count()

    def recorded(name: str, network: Precond) -> ScoreModel:
        def denoiser(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
            calls[name].append((x.clone(), sigma[0]))
            return network(x, sigma, class_labels)

        return ScoreModel(denoiser)

    sample = dg.Heun(steps=steps, **settings).sample(
        recorded("net", network),
        arrays["in_noise"],
        arrays["in_labels"],
        (NetworkCorrection(recorded("gnet", other), NetworkSettings(weight=weight)),),
        lambda _: arrays["in_churn_noise"][next(draws)],
    )
    states, times = zip(*calls["net"], strict=True)
    goldens.close(case, "x", sample.x, arrays["out_x"], of_max=1e-4)
    for state, expected in zip(states, arrays["out_eval_x"], strict=True):
        goldens.close(case, "eval_x", state, expected, of_max=1e-4)
    goldens.close(case, "eval_t", torch.stack(times), arrays["out_eval_t"], rtol=2e-6)
    assert [len(calls["net"]), len(calls["gnet"])] == arrays["out_n_calls"].tolist()
    assert next(draws) == int(arrays["out_n_draws"])


class Raw(torch.nn.Module):
    """A stand-in for the autoencoder with constant moments and images; `asked` lists the inputs."""

    def __init__(self, raw: Tensor, decoded: Tensor) -> None:
        super().__init__()
        mean, std = raw.chunk(2, dim=1)
        self.answer = SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=std), sample=decoded)
        self.asked: list[Tensor] = []

    def encode(self, images: Tensor) -> Any:
        self.asked.append(images)
        return self.answer

    def decode(self, latents: Tensor) -> Any:
        self.asked.append(latents)
        return self.answer


@pytest.mark.parametrize("case", goldens.cases(is_latents, "workbench"))
def test_latents_are_normalised_as_the_reference_s(case: Case) -> None:
    config, arrays, _ = goldens.load(case)
    raw = Raw(arrays["in_raw"], arrays["in_decoded"])
    names = ("raw_mean", "raw_std", "final_mean", "final_std")
    spec = dg.EDM2VAE(**{name: config[name] for name in names})
    vae = EDM2VAEModule(raw, **spec.model_dump(include=set(names)))
    levels = torch.arange(256, dtype=torch.uint8)
    mean, std = spec.encode(vae, scaled(levels[:, None, None, None]))
    torch.testing.assert_close(raw.asked[0].flatten(), levels / 255, rtol=1e-6, atol=1e-7)
    decoded = spec.decode(vae, arrays["in_latent"])
    for name, found in (
        ("scale", vae.scale_C.flatten()),
        ("bias", vae.bias_C.flatten()),
        ("latents", mean + arrays["in_eps"] * std),
        ("vae_decode_input", raw.asked[1]),
    ):
        goldens.close(case, name, found, arrays[f"out_{name}"], rtol=1e-6, atol=1e-6)
    found = torch.from_numpy(pixels(decoded, spec.pixel_offset)).permute(0, 3, 1, 2)
    # Within float32's last bits of a whole number, either pixel is right.
    sure = ((arrays["in_decoded"] * 255).round() / 255 - arrays["in_decoded"]).abs() > 1e-6
    outside = (arrays["in_decoded"] <= 0) | (arrays["in_decoded"] >= 1)
    assert torch.equal(found[sure | outside], arrays["out_pixels"][sure | outside])
    assert float(sure.float().mean()) > 0.9
    # Networks of pixels see images as all others here.
    goldens.close(case, "rgb_encoded", scaled(arrays["out_pixels"]), arrays["out_rgb_encoded"], rtol=1e-6)
    assert torch.equal(torch.from_numpy(pixels(decoded)).permute(0, 3, 1, 2), arrays["out_rgb_decoded"])


FULL_SIZE = next(
    json.loads(file.read_text())
    for folder in (goldens.folder("workbench"), goldens.SMALL.parent / "workbench")
    if (file := folder / "official_state_dict_keys.json").is_file()
)


@pytest.mark.parametrize("published", [name for name in FULL_SIZE if name.startswith("edm2-")])
def test_full_size_networks_have_every_published_name_shape_and_number_of_parameters(published: str) -> None:
    entry = FULL_SIZE[published]
    config, latent = entry["config"], entry["config"]["img_channels"] == 4
    network: Any = dg.edm2(published.split("-")[2], latent=latent)
    assert network.model_channels == config["model_channels"]
    shape = DataShape(config["img_resolution"], config["img_channels"], config["label_dim"])
    network.check(shape)
    with torch.device("meta"):
        built = network.build(**shape._asdict())
    assert {name: list(tensor.shape) for name, tensor in built.state_dict().items()} == {
        name: sides for name, (_, sides) in entry["state_dict"].items()
    }
    assert sum(parameter.numel() for parameter in built.parameters()) == entry["n_params"]
    assert any(isinstance(module, Block) and module.num_heads for module in built.modules())

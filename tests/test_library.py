"""docs/library.md: its snippets as they stand, in order, on networks whose answers are known."""

import contextlib
import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.dit.pipeline_dit import DiTPipeline
from inprocess import complete
from pipelines import toys
from torch import Tensor

import dgflow as dg
from dgflow.cli.root import open_root
from dgflow.diffusers import DiscriminatorGuidedDDPMPipeline
from dgflow.diffusion.discrete import DiscreteSchedule, table
from dgflow.diffusion.guidance import Point
from dgflow.diffusion.times import sigma_from_tau
from dgflow.steps.published_network import CONFIG, FORMAT, WEIGHTS, PublishedNetwork
from dgflow.weights.tensors import save_weights

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "library.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
MEAN, STD = 0.3, 0.5  # of every value of the data
REAL = 0.5  # their mean as the discriminator knows it
SMALLER = {
    "channel_mult=(1, 2, 3)": "channel_mult=(1, 1), num_res_blocks=1, model_channels=64",
    "num_inference_steps=50": "num_inference_steps=2",
}
"""Networks that have their published size on the page, and take long."""


def network(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact denoiser."""
    s = sigma.view(-1, 1, 1, 1)
    return (STD**2 * x + s**2 * MEAN) / (STD**2 + s**2)


def epsilon_network(y: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
    """The exact noise, at timesteps of DDPM's schedule."""
    sigma = table(DiscreteSchedule.of("linear").original_sigmas, y.device)[timestep.long()]
    x = y * (1 + sigma**2).sqrt().view(-1, 1, 1, 1)
    return ((x - network(x, sigma)) / sigma.view(-1, 1, 1, 1)).to(y.dtype)


def discriminator(y: Tensor, tau: Tensor, labels: Tensor | None) -> Tensor:
    """The exact log-ratio of data of mean REAL and of mean MEAN."""
    sigma = sigma_from_tau(tau.double())
    x = y.double() * (1 + sigma**2).sqrt().view(-1, 1, 1, 1)
    distance = ((x - MEAN) ** 2 - (x - REAL) ** 2).flatten(1).sum(1)
    return distance / (2 * (STD**2 + sigma**2))


def flowed(x: Tensor, sigma: float, mean: float = MEAN) -> Tensor:
    """Returns the point to which the probability-flow ODE moves x at level sigma: (x - mean) / deviation is
    constant."""
    return mean + (x - mean) * STD / math.sqrt(STD**2 + sigma**2)


def write_root(folder: Path) -> str:
    """A root whose only step is a discriminator of 8 x 8 images, and the same as a published folder."""
    network: Any = toys.discriminator(3, side=8)
    published = folder / "toy-discriminator"
    published.mkdir()
    source = published / WEIGHTS
    source.write_bytes(save_weights(network.head.state_dict()))
    step = dg.Pretrained(source=str(source), network=toys.DISCRIMINATOR, image_size=8)
    config = {"dgflow_format": FORMAT, **PublishedNetwork.of(step).model_dump(mode="json")}
    (published / CONFIG).write_text(json.dumps(config))
    complete(step, open_root(str(folder / "root")))
    return str(folder / "root")


def write_published(folder: Path) -> None:
    """Files of random weights in the place of the published ones."""
    sizes: dict[str, Any] = {"channel_mult": (1, 1), "num_res_blocks": 1, "model_channels": 64}
    classifier = dg.ADMEncoder(attention_resolutions=(1, 2, 4), **sizes)
    features: Any = classifier.build(image_size=32, channels=4, num_classes=1000)
    network: Any = dg.Discriminator().build(image_size=32, channels=4, num_classes=1000, features=features)
    torch.save(features.state_dict(), folder / "32x32_classifier.pt")
    torch.save(network.head.state_dict(), folder / "discriminator_7.pt")


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """Words -> the names as they are after the first snippet that has them; `printed` by all snippets."""
    folder = tmp_path_factory.mktemp("library")
    names: dict[str, Any] = {"network": network, "epsilon_network": epsilon_network}
    names |= {"discriminator": discriminator, "root": write_root(folder)}
    write_published(folder)
    states: list[dict[str, Any]] = []
    ddpm: Any = DiscriminatorGuidedDDPMPipeline
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr(ddpm, "from_pretrained", lambda _: ddpm.from_pipe(toys.ddpm_pipeline(8)))
        patch.setattr(
            DiTPipeline, "from_pretrained", lambda _, torch_dtype: toys.dit_pipeline(32).to(torch_dtype)
        )
        for snippet in SNIPPETS:
            for words, toy in SMALLER.items():
                snippet = snippet.replace(words, toy)
            torch.manual_seed(0)
            exec(snippet, names)
            states.append({**names, "printed": printed.getvalue()})

    def found(words: str) -> dict[str, Any]:
        return next(state for state, snippet in zip(states, SNIPPETS, strict=True) if words in snippet)

    return found


def test_samplers_follow_the_flow_of_the_data(after):
    """Closed form, within what few steps leave at the largest latents: Heun's 18 leave 0.11, and 72 0.006."""
    names = after("rk45(denoiser")
    latents = names["latents"].double()
    assert names["printed"] == "torch.Size([4, 3, 8, 8]) 35\n"
    torch.testing.assert_close(names["sample"].x, flowed(80 * latents, 80.0), rtol=0, atol=0.12)
    sigma = sigma_from_tau(0.93)
    x = latents * math.sqrt(1 + sigma**2)
    torch.testing.assert_close(names["exact"], flowed(x, sigma), rtol=0, atol=2e-4)
    names = after("ddim(epsilon_only")
    sigma = names["schedule"].sigmas[-1]
    x = names["latents"] * math.sqrt(1 + sigma**2)
    torch.testing.assert_close(names["own"].x, flowed(x, sigma), rtol=0, atol=0.12)
    torch.testing.assert_close(names["same"].x, names["own"].x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "words"), [("noisy", "S_churn"), ("restarted", "walk("), ("ancestral", "ddpm(")]
)
def test_samples_with_noise_have_the_mean_and_deviation_of_the_data(after, name, words):
    """768 values; few steps leave an error of up to 0.08 in the deviation."""
    x = after(words)[name].x
    assert (float(x.mean()), float(x.std())) == pytest.approx((MEAN, STD), abs=0.09)


def test_the_gradient_takes_an_eulers_step_of_the_real_datas_flow(after):
    names = after("x_next")
    real = (STD**2 * names["x"] + 4.0 * REAL) / (STD**2 + 4.0)
    torch.testing.assert_close(names["denoised"], real, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(names["x_next"], real + (names["x"] - real) * 0.75, rtol=1e-5, atol=1e-5)


def test_guided_samples_are_those_of_a_network_of_the_real_data(after):
    """But for the last steps, from sigma = 0.045 down, where the term does not act."""
    names = after("guidance_nfe")
    shift = REAL - MEAN
    expected = names["heun"](
        lambda x, sigma, _: network(x - shift, sigma) + shift, names["latents"], names["edm_sigmas"](18)
    )
    torch.testing.assert_close(names["guided"].x, expected.x, rtol=0, atol=1e-3)
    again = after("Point(")
    torch.testing.assert_close(again["gradient"], names["gradient"], rtol=0, atol=0)


def test_a_discriminator_of_a_root_is_the_same_by_its_term_and_by_its_log_ratio(after):
    names = after("dg.open(root)")
    by_term, _ = names["trained"].term()(
        names["Point"](names["x"].detach(), names["sigma"], None, 0, 1, (2.0, 2.0))
    )
    assert names["gradient"].abs().max() > 0 and names["guided"].guidance_nfe > 10
    torch.testing.assert_close(by_term, names["gradient"], rtol=1e-5, atol=1e-9)


def test_a_published_discriminator_is_that_of_the_root(after):
    point = Point(torch.ones(1, 3, 8, 8, dtype=torch.float64), torch.ones(1).double(), None, 0, 1, (1.0, 1.0))
    (found, _), (own, _) = (after(words)["term"](point) for words in ("dg.load(", "dg.open(root)"))
    assert torch.equal(found, own)


def test_the_pipelines_give_images(after):
    """Their numbers are compared with dgflow's samplers in tests/pipelines."""
    assert [image.size for image in after("google/ddpm-cifar10-32")["images"]] == [(8, 8)] * 4
    assert len(after("facebook/DiT-XL-2-256")["images"]) == 2


def test_any_scheduler_is_guided_in_its_steps(after):
    assert after("guided_steps(")["y"].isfinite().all()

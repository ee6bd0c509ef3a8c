"""The examples of CONTRIBUTING.md as they stand, each in a file of its own outside the package."""

import importlib
import json
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from inprocess import complete

import dgflow as dg
from dgflow.diffusion.score_model import ScoreModel
from dgflow.engine.execute import result_of
from dgflow.specs.bound import Bound
from dgflow.specs.step import here
from dgflow.store.memory import MemoryStore
from dgflow.testing.smoke import smoke
from dgflow.weights.tensors import save_weights

ROOT = Path(__file__).resolve().parents[1]
FILES = dict(
    re.findall(r"```python\n# (\w+)\.py\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
)


TINY = dg.SongUNet(model_channels=8, channel_mult=(1, 1), num_blocks=1, attn_resolutions=(), dropout=0.0)
JUDGE = dg.ADMEncoder(
    model_channels=32, num_res_blocks=1, attention_resolutions=(), num_head_channels=32, pool="adaptive"
)


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.SimpleNamespace]:
    """The modules of the examples by name; the current folder holds them, and 48 images."""
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (48, 8, 8, 3)).astype(np.uint8)
    np.savez("images.npz", image=image, label=np.arange(48) % 2)
    yield types.SimpleNamespace(**{name: importlib.import_module(name) for name in FILES})
    for name in FILES:
        sys.modules.pop(name, None)


def weights(examples: types.SimpleNamespace) -> dg.Pretrained:
    step = dg.Pretrained(
        source="net.safetensors", network=examples.toy_spec.Toy(width=4), image_size=8, num_classes=0
    )
    torch.manual_seed(0)
    Path("net.safetensors").write_bytes(save_weights(examples.toy_module.Network(3, 4).state_dict()))
    return step


def images() -> dg.ImportImages:
    return dg.ImportImages(source="images.npz", num_classes=2, image_size=8, num_images=48, shard_size=16)


def test_the_backbone_gives_samples_and_its_spec_loads_no_torch(examples):
    step = dg.Generate(score=weights(examples).weights(), sampler=examples.euler.Euler(steps=4), shard_size=8)
    made = complete(examples.mirror.Mirror(images=step[:16]), MemoryStore("contributing-backbone")).rows(
        "images"
    )
    assert made["image"].shape == (16, 8, 8, 3) and made["image"].std() > 1
    program = "import sys, toy_spec, euler, mirror, mean_gap; print({'torch', 'ray'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_the_way_to_refine_is_compared_with_plain_sampling(examples):
    judge = dg.TrainClassifier(real=images()[:24], network=JUDGE, epochs=1).last()
    found = examples.refine.comparison(weights(examples).weights(), images()[24:48], judge)
    assert found.base == "plain" and found.methods["Euler"] == ("Euler, steps 18", "Euler, steps 35")
    cost = found.report.step.beside[0].step
    costs = cost.compared(cost.compute(Bound(), here, MemoryStore("contributing-cost")))
    nfe = {"plain, steps 9": 17, "plain, steps 18": 35, "Euler, steps 18": 18, "Euler, steps 35": 35}
    per_step = costs["Euler, steps 18"]["sampling"]["mean"] / 18
    assert {name: arm["sampling"]["mean"] / per_step for name, arm in costs.items()} == pytest.approx(nfe)


def test_the_sampler_is_edms_euler_with_and_without_guidance(examples):
    """The data are Gaussian, of mean 0.3 and deviation 0.7, guided by a term with a constant gradient."""

    def denoiser(x, sigma, labels):
        s = sigma.view(-1, 1, 1, 1)
        return (0.49 * x + s**2 * 0.3) / (0.49 + s**2)

    model, latents = ScoreModel(denoiser), torch.randn(3, 1, 2, 2, dtype=torch.float64)
    for terms in ((), (lambda point: (torch.full_like(point.x, 0.1), None),)):
        own, published = (
            sampler.sample(model, latents, None, terms, lambda step: latents)
            for sampler in (examples.euler.Euler(steps=7), dg.EDMAblation(steps=7, solver="euler"))
        )
        torch.testing.assert_close(own.x, published.x, rtol=1e-12, atol=1e-12)
        assert (own.nfe, own.guidance_nfe) == (published.nfe, published.guidance_nfe)


def test_the_step_mirrors_every_image_and_its_samples_train_a_network(examples):
    mirrored = examples.mirror.Mirror(images=images().all(), shard_size=16)
    store = MemoryStore("contributing-step")
    bound = complete(dg.TrainScore(real=mirrored.all(), network=TINY, epochs=1, batch_size=16), store)
    rows = bound.rows("real", ["image"])["image"]
    original = complete(mirrored, store).rows("images", ["image"])["image"]
    np.testing.assert_array_equal(rows, original[:, :, ::-1])


def test_the_metric_is_zero_for_the_same_features_and_is_read_back(examples):
    judge = dg.TrainClassifier(real=images()[:32], network=JUDGE, epochs=1, batch_size=16)
    features = dg.Features(samples=images().all(), network=judge.last())
    store = MemoryStore("contributing-metric")
    for reference, expected in ((features[:24], True), (features[24:48], False)):
        target = examples.mean_gap.MeanGap(samples=features[:24], reference=reference)
        complete(target, store)
        assert (json.loads(result_of(target, store))["mean_gap"] == 0) == expected


def test_a_recipe_of_the_examples_has_a_smoke_form(examples):
    step = dg.Generate(score=weights(examples).weights(), sampler=examples.euler.Euler(), shard_size=8)
    toy = smoke(step, "file:///root").target
    assert isinstance(toy, dg.Generate) and toy.score.step.is_made_up
    assert toy.score.step.network == examples.toy_spec.Toy(width=8)

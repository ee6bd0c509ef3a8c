"""Networks that a user brings: how they are called, and refusals that say what to do."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from inprocess import complete
from torch import nn

import dgflow as dg
from dgflow.engine.plan import plan
from dgflow.engine.root import Root
from dgflow.estimate.estimates import counted, piloted
from dgflow.networks.catalogue import CATALOGUE
from dgflow.specs.bound import Bound
from dgflow.specs.graph import graph
from dgflow.steps.judging.features import Features
from dgflow.steps.judging.measure import Measure
from dgflow.steps.sources.image_set import ImageSet
from dgflow.store.memory import MemoryStore
from dgflow.weights.tensors import save_weights

MODULE = '''
import torch
from torch import nn

class Gaussian(nn.Module):
    """The exact denoiser of images N(mean, 0.25), a mean each class."""
    def __init__(self, image_size, channels, num_classes, spread=0.25):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(max(num_classes, 1)))
        self.spread, self.steps = spread, [step.item() for step in torch.linspace(0, 1, 3)]
    def forward(self, x, sigma, class_labels):
        assert x.dtype == sigma.dtype == torch.float32 and sigma.shape == x.shape[:1]
        which = torch.zeros(len(x), dtype=torch.int64) if class_labels is None else class_labels
        mean, noise = self.mean[which].view(-1, 1, 1, 1), sigma.view(-1, 1, 1, 1) ** 2
        return (self.spread * x + noise * mean) / (self.spread + noise)

class Corners(nn.Module):
    def __init__(self, image_size, channels, num_classes, form="features"):
        super().__init__()
        self.form, self.head = form, nn.Linear(4, num_classes)
    def forward(self, images):
        features = images[:, :2, :2, 0].flatten(1)
        both = (features, self.head(features))
        return {"features": features, "both": both, "image": images, "number": 3.0}[self.form]

class Mistaken(Gaussian):
    def forward(self, x, sigma, class_labels):
        return self.inner(x) @ x[:, :, :1, :]
    def inner(self, x):
        return x.reshape(7, 3)  # not so many

class Full(Gaussian):
    def forward(self, x, sigma, class_labels):
        raise torch.OutOfMemoryError("CUDA out of memory")

class Unbuilt(Gaussian):
    def __init__(self, image_size, channels, num_classes):
        super().__init__(image_size, channels, num_classes)
        self.last = nn.Linear(image_size / 2, 3)

class Half(Gaussian):
    def forward(self, x, sigma, class_labels):
        return x[:, :, ::2]

def linear(image_size, channels, num_classes):
    return lambda x, sigma, class_labels: x

def forgetful(width):
    return nn.Linear(width, width)

setting = 3
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes a module `brought` on the path; returns a function that writes weights for its networks and
    names them."""
    (tmp_path / "brought.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "brought", raising=False)

    def pretrained(network: dg.OwnDenoiser | dg.OwnFeatures, **fields) -> dg.Pretrained:
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        step = dg.Pretrained(
            **{"source": str(file), "network": network, "image_size": 4, "num_classes": 3} | fields
        )
        module = step.build(Bound())
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.linspace(-0.5, 0.5, parameter.numel()).reshape(parameter.shape))
        file.write_bytes(save_weights(module.state_dict()))
        return step

    yield pretrained
    sys.modules.pop("brought", None)


def sampled(generate: dg.Generate, count: int) -> dict[str, np.ndarray]:
    """Returns the rows of the first samples."""
    store = MemoryStore("own")
    complete(generate, store)
    states = plan(generate, store)
    bound = states[-1].bound
    assert bound is not None
    return generate.shard_builder(bound)(0, count)


def test_a_denoiser_of_ones_own_samples_its_own_distribution_of_each_class(own):
    step = own(dg.OwnDenoiser(factory="brought:Gaussian"))
    rows = sampled(dg.Generate(score=step.weights(), sampler=dg.Heun(steps=18), shard_size=300), 300)
    for label, mean in enumerate((-0.5, 0.0, 0.5)):
        images = rows["image"][rows["label"] == label] / 127.5 - 1
        clipped = (
            0.9166 * mean
        )  # of a Gaussian of mean and deviation 0.5, what is above 1 cut off: 0.5 - 0.5 (phi(1) - 1 + Phi(1))
        assert (
            len(images) > 60
            and abs(images.mean() - clipped) < 0.03
            and abs(images.std() - (0.48 if mean == 0 else 0.432)) < 0.03
        )


def test_a_denoiser_without_classes_is_given_no_labels(own):
    step = own(dg.OwnDenoiser(factory="brought:Gaussian"), num_classes=0)
    rows = sampled(dg.Generate(score=step.weights(), sampler=dg.Heun(steps=4), shard_size=8), 8)
    assert (rows["label"] == -1).all()


def test_options_reach_the_factory_and_are_identity_and_so_is_the_version(own):
    plain, wide = (
        dg.OwnDenoiser(factory="brought:Gaussian", options=options) for options in ({}, {"spread": 4.0})
    )
    assert wide.build(image_size=4, channels=3, num_classes=3).spread == 4.0
    steps = [own(plain)]
    steps += [
        steps[0].model_copy(update={"network": other})
        for other in (wide, plain.model_copy(update={"version": 2}))
    ]
    assert len({step.fingerprint for step in steps}) == 3


def test_samplers_stay_within_the_noise_levels_it_was_trained_for(own):
    spec = dg.OwnDenoiser(factory="brought:Gaussian", sigma_min=0.02, sigma_max=10)
    model = spec.score_model(spec.build(image_size=4, channels=3, num_classes=0))
    assert model.narrowed(0.002, 80) == (0.02, 10)
    with pytest.raises(ValueError, match="between 0.02 and 10"):
        model.discrete("10")
    with pytest.raises(ValueError, match="expected sigma_min below sigma_max, found 3.0 and 2.0"):
        dg.OwnDenoiser(factory="brought:Gaussian", sigma_min=3, sigma_max=2)


def test_latents_of_ones_own_network_are_kept_as_latents(own):
    step = own(dg.OwnDenoiser(factory="brought:Gaussian", latent=True), channels=4)
    rows = sampled(dg.Generate(score=step.weights(), sampler=dg.Heun(steps=2), shard_size=4), 4)
    assert rows["latent"].shape == (4, 4, 4, 4) and "image" not in rows


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("absent_module:Net", r"expected a Python module absent_module.*searched .*--working-dir FOLDER"),
        (
            "brought:Gausian",
            r"expected a function Gausian in .*brought\.py, found nothing; callables there: "
            r"Corners, Full, Gaussian",
        ),
        ("brought:setting", r"expected a function setting in .*brought\.py, found a int"),
        ("brought:linear", r"brought:linear: expected a torch\.nn\.Module from the factory, found function"),
        ("brought:forgetful", r"takes image_size, channels, num_classes by name, found \(width\)"),
    ],
)
@pytest.mark.usefixtures("own")
def test_a_factory_that_cannot_be_used_is_refused_where_it_is_built(factory, message):
    with pytest.raises(ValueError, match=message):
        dg.OwnDenoiser(factory=factory).build(image_size=4, channels=3, num_classes=3)


@pytest.mark.usefixtures("own")
def test_an_option_that_the_factory_does_not_take_is_refused():
    with pytest.raises(ValueError, match="unexpected keyword argument 'width'"):
        dg.OwnDenoiser(factory="brought:Gaussian", options={"width": 3}).build(
            image_size=4, channels=3, num_classes=3
        )


@pytest.mark.parametrize(
    "factory", ["brought", "brought.Gaussian", "my model:Net", "/path/model.py:Net", ":Net", "brought:"]
)
def test_a_factory_is_named_by_module_and_function(factory):
    with pytest.raises(ValueError, match=r'expected a factory as "package\.module:function"'):
        dg.OwnDenoiser(factory=factory)


def test_an_option_that_the_data_decides_is_refused():
    with pytest.raises(
        ValueError,
        match="other than image_size, channels, num_classes, which the Pretrained sets, found channels",
    ):
        dg.OwnFeatures(factory="brought:Corners", options={"channels": 1})


def test_a_denoiser_that_gives_another_shape_is_refused_by_name(own):
    step = own(dg.OwnDenoiser(factory="brought:Half"))
    with pytest.raises(
        ValueError,
        match=r"brought:Half: expected denoised images of shape \[4, 3, 4, 4\], found \[4, 3, 2, 4\]",
    ):
        sampled(dg.Generate(score=step.weights(), sampler=dg.Heun(steps=2), shard_size=4), 4)


def line_of(text: str) -> int:
    """Returns the number of the line of `brought.py` that begins so."""
    lines = MODULE.splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.strip().startswith(text))


def test_an_error_in_ones_own_forward_names_file_line_and_function(own):
    step = own(dg.OwnDenoiser(factory="brought:Mistaken"))
    with pytest.raises(ValueError, match="brought:Mistaken: .*brought.py:") as raised:
        sampled(dg.Generate(score=step.weights(), sampler=dg.Heun(steps=2), shard_size=4), 4)
    place = (
        f"brought.py:{line_of('return x.reshape(7, 3)')} in inner: RuntimeError: shape '[7, 3]' is invalid"
    )
    assert place in str(raised.value) and "return x.reshape(7, 3)" in str(raised.value)


def test_an_error_in_ones_own_constructor_names_file_and_line(own):
    with pytest.raises(ValueError, match="brought:Unbuilt: .*brought.py:") as raised:
        dg.OwnDenoiser(factory="brought:Unbuilt").build(image_size=4, channels=3, num_classes=0)
    assert f"brought.py:{line_of('self.last = nn.Linear(image_size / 2')} in __init__: " in str(raised.value)


def test_a_full_memory_is_no_mistake_in_ones_own_code(own):
    """The batch is made smaller, as for any other network."""
    network = dg.OwnDenoiser(factory="brought:Full")
    model = network.score_model(network.build(image_size=4, channels=3, num_classes=0))
    with pytest.raises(torch.OutOfMemoryError):
        model.denoiser(torch.zeros(1, 3, 4, 4), torch.ones(1), None)


def test_sampling_ones_own_network_in_fewer_bits_is_refused(own):
    step = own(dg.OwnDenoiser(factory="brought:Gaussian"))
    with pytest.raises(ValueError, match=r'expected precision="float32", found torch\.bfloat16'):
        sampled(
            dg.Generate(score=step.weights(), sampler=dg.Heun(steps=2), precision="bfloat16", shard_size=4), 4
        )


def test_weights_of_another_network_are_refused_by_name(own, tmp_path):
    step = own(dg.OwnDenoiser(factory="brought:Gaussian"))
    Path(step.source).write_bytes(save_weights(nn.Linear(2, 2).state_dict()))
    with pytest.raises(ValueError, match=r"do not fit this Gaussian"):
        complete(step, MemoryStore("own"))


# Features


def images(tmp_path: Path, count: int = 20, size: int = 4) -> ImageSet:
    random = np.random.default_rng(0)
    np.savez(
        tmp_path / "images.npz",
        image=random.integers(0, 256, (count, size, size, 3), np.uint8),
        label=np.arange(count) % 3,
    )
    return ImageSet.at(str(tmp_path / "images.npz"))


def judged(step: dg.Pretrained, samples: ImageSet) -> dict[str, np.ndarray]:
    features, store = Features(samples=samples, network=step.weights()), MemoryStore("own")
    known: dict[str, Bound | None] = {}
    complete(step, store)
    for node in graph(features):
        known[node.step.fingerprint] = Root(store).bind(node.step, known)
    bound = known[features.fingerprint]
    assert bound is not None
    return features.shard_builder(bound)(0, samples.rows)


@pytest.mark.parametrize(("form", "logits"), [("features", False), ("both", True)])
def test_features_are_what_the_network_gives_for_images_from_minus_one_to_one(own, tmp_path, form, logits):
    step, samples = (
        own(dg.OwnFeatures(factory="brought:Corners", options={"form": form}, logits=logits)),
        images(tmp_path),
    )
    rows = judged(step, samples)
    pixels = np.stack(samples.open().read(0, 20)).transpose(0, 3, 1, 2) / 127.5 - 1
    np.testing.assert_allclose(rows["features"], pixels[:, :2, :2, 0].reshape(20, 4), atol=1e-6)
    assert ("logits" in rows) == logits and (not logits or rows["logits"].shape == (20, 3))


@pytest.mark.parametrize(
    ("form", "logits", "message"),
    [
        (
            "features",
            True,
            r"expected \(features, logits\) of shape \[20, d\] with logits=True, found \[20, 4\]",
        ),
        (
            "both",
            False,
            r"expected features of shape \[20, d\] with logits=False, found \[20, 4\], \[20, 3\]",
        ),
        ("image", False, r"expected features of shape \[20, d\] with logits=False, found \[20, 3, 4, 4\]"),
        ("number", False, r"found float"),
    ],
)
def test_an_output_of_another_form_is_refused_by_name(own, tmp_path, form, logits, message):
    step = own(dg.OwnFeatures(factory="brought:Corners", options={"form": form}, logits=logits))
    with pytest.raises(ValueError, match=message):
        judged(step, images(tmp_path))


def test_the_inception_score_is_measured_only_where_there_are_logits(own):
    part, other = (
        ImageSet(source=name, digest=digit * 64, rows=100) for name, digit in (("a", "1"), ("b", "2"))
    )
    without, with_logits = (
        own(dg.OwnFeatures(factory="brought:Corners", logits=logits)).weights() for logits in (False, True)
    )
    assert Measure(samples=part, reference=other, features=with_logits).wanted == (
        "fid",
        "is",
        "precision",
        "recall",
    )
    assert Measure(samples=part, reference=other, features=without).wanted == ("fid", "precision", "recall")
    with pytest.raises(
        ValueError, match="is cannot be measured: brought:Corners gives features without logits"
    ):
        Measure(samples=part, reference=other, features=without, metrics=("is",))


def test_a_protocol_is_inceptions_and_refused_with_another_network(own):
    part, other = (
        ImageSet(source=name, digest=digit * 64, rows=100) for name, digit in (("a", "1"), ("b", "2"))
    )
    with pytest.raises(
        ValueError,
        match="expected no front_end, nor protocol, for another network than Inception, found 'edm'",
    ):
        Measure(
            samples=part,
            reference=other,
            protocol="edm",
            features=own(dg.OwnFeatures(factory="brought:Corners")).weights(),
        )


def test_images_of_another_shape_than_the_network_takes_are_refused_when_the_recipe_is_built(own):
    judge = own(dg.OwnFeatures(factory="brought:Corners")).weights()
    real = dg.ImportImages(source="/nowhere", num_classes=3, image_size=8)
    with pytest.raises(ValueError, match="3 channels of 4 pixels per side, found 3 of 8"):
        Measure(samples=real[:50], reference=real[50:100], features=judge)


def test_a_denoiser_does_not_judge_and_a_published_classifier_neither(own):
    score = own(dg.OwnDenoiser(factory="brought:Gaussian")).weights()
    for weights in (score, dg.official("adm-imagenet-64x64-classifier")):
        with pytest.raises(
            ValueError, match=r"Inception's weights, those of OwnFeatures, or those of a TrainClassifier"
        ):
            Features(samples=ImageSet(source="a", digest="1" * 64, rows=9), network=weights)
    assert "inception-2015-12-05" in CATALOGUE


def test_a_denoiser_without_parameters_is_counted_timed_and_sampled_with(tmp_path, monkeypatch):
    (tmp_path / "closed_form.py").write_text(
        "from torch import nn\n"
        "class Exact(nn.Module):\n"
        "    def __init__(self, image_size, channels, num_classes):\n"
        "        super().__init__()\n"
        "    def forward(self, x, sigma, class_labels):\n"
        "        return x * 0.25 / (0.25 + sigma.view(-1, 1, 1, 1) ** 2)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "none.safetensors").write_bytes(save_weights({}))
    network = dg.OwnDenoiser(factory="closed_form:Exact")
    score = dg.Pretrained(source=str(tmp_path / "none.safetensors"), network=network, image_size=4)
    generate = dg.Generate(score=score.weights(), sampler=dg.Heun(steps=3), shard_size=4)
    plans = plan(generate[:4], MemoryStore("closed-form"))
    for costs in (counted(plans, "h100", utilisation=0.35, price=None), piloted(plans, lambda line: None)):
        row = costs.steps[generate.fingerprint]
        assert row.parameters == 0
    store = MemoryStore("closed-form-run")
    complete(generate, store)

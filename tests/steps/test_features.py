"""Features of images from every kind of source, with Inception and with a classifier; and the names of images
outside a root."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inprocess import complete
from parity import inception_recipe
from PIL import Image
from steps.judging import INCEPTION, SCORE, commit
from tiny import JUDGE, real, write_images

from dgflow import ADMEncoder, Generate, Heun, Pretrained, TrainClassifier
from dgflow.metrics.front_ends import prepare
from dgflow.networks.inception import spec as network_specs
from dgflow.networks.inception.module import InceptionV3Module, accelerated
from dgflow.specs.step import Weights
from dgflow.steps.judging.features import Features
from dgflow.steps.judging.measure import Measure
from dgflow.steps.sources.image_set import ImageSet, StatisticsFile
from dgflow.steps.training.rows import scaled
from dgflow.store.memory import MemoryStore
from dgflow.store.open import open_store
from dgflow.store.shards import Columns
from dgflow.store.step_store import StepStore
from dgflow.weights.tensors import save_weights

LABELS = np.array([3, 1, 4, 1])


def blocks(seed: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Returns an image of coarse blocks with noise: uint8 [H, W, C]."""
    random = np.random.default_rng([seed, height, width])
    coarse = random.integers(0, 256, (-(-height // 8), -(-width // 8), channels))
    whole = coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    return np.clip(whole + random.normal(0, 20, whole.shape), 0, 255).astype(np.uint8)


PIXELS = np.stack([blocks(seed, 32, 32) for seed in range(4)])
MIXED = [
    blocks(5, 32, 32),
    blocks(6, 24, 40),
    blocks(7, 48, 48, channels=1),
    np.full((32, 32, 3), 90, np.uint8),
]


def columns_of(step: Features, store: Any, start: int = 0, stop: int | None = None) -> Columns:
    """Returns the rows [start, stop) of features, by default all, computed here from the step's inputs."""
    return step.shard_builder(complete(step, store))(start, step.length if stop is None else stop)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def network() -> InceptionV3Module:
    network = InceptionV3Module()
    shapes = {name: tuple(values.shape) for name, values in network.state_dict().items()}
    network.load_state_dict(inception_recipe.weights(11, shapes))
    return network.eval()


@pytest.fixture(scope="module")
def fast(network) -> InceptionV3Module:
    return accelerated(network)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, str]:
    """Returns the same four images as an npz, a zip and a step of a run, and a folder of four images with
    little in common."""
    folder = tmp_path_factory.mktemp("images")
    np.savez(folder / "images.npz", arr_0=PIXELS, arr_1=LABELS)
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for number, pixels in enumerate(PIXELS):
            archive.writestr(f"{number:06d}.png", png(pixels))
    (folder / "mixed").mkdir()
    for number, pixels in enumerate(MIXED):
        (folder / "mixed" / f"{number}.png").write_bytes(png(pixels))
    store = open_store(str(folder / "root"))
    store.put("dgflow.json", b'{"dgflow_root": 1}')
    step = Generate(score=SCORE, sampler=Heun(steps=2), shard_size=3)
    commit(store, step[:4], {"label": LABELS, "image": PIXELS})
    return {
        "npz": f"{folder}/images.npz",
        "zip": f"{folder}/images.zip",
        "step": f"{folder}/root/{step.name}",
        "mixed": f"{folder}/mixed",
    }


@pytest.fixture(scope="module")
def found(network, sources, tmp_path_factory) -> dict[str, Columns]:
    """Returns columns of Inception's features by source."""
    file = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    file.write_bytes(save_weights(network.state_dict()))
    spec = network_specs.InceptionV3()
    weights = Pretrained(source=str(file), network=spec, image_size=299, num_classes=1008).weights()
    store = MemoryStore("features-of-inception")
    steps = {
        name: Features(samples=ImageSet.at(source), network=weights, front_end="adm", batch_size=3)
        for name, source in sources.items()
    }
    return {name: columns_of(step, store) for name, step in steps.items()}


# With Inception


def test_columns_are_what_the_step_says(found):
    shapes = {name: (values.dtype.str, values.shape) for name, values in found["npz"].items()}
    assert shapes == {
        "index": ("<i8", (4,)),
        "label": ("<i8", (4,)),
        "features": ("<f4", (4, 2048)),
        "spatial": ("<f4", (4, 2023)),
        "logits": ("<f4", (4, 1008)),
        "constant": ("|b1", (4,)),
        "pixels": ("<i8", (4,)),
    }


def test_features_are_the_networks_of_the_prepared_images(found, fast):
    with torch.no_grad():
        expected = fast(prepare(PIXELS, "adm"))
    for column, values in (
        ("features", expected.pooled),
        ("spatial", expected.spatial),
        ("logits", expected.logits),
    ):
        np.testing.assert_allclose(
            found["npz"][column], values.numpy(), rtol=0, atol=1e-5 * float(values.abs().max())
        )


@pytest.mark.parametrize("source", ["zip", "step"])
def test_the_same_images_have_the_same_features_wherever_they_lie(found, source):
    for column in ("index", "features", "spatial", "logits", "constant", "pixels"):
        np.testing.assert_array_equal(found[source][column], found["npz"][column])


def test_labels_are_those_of_the_source_and_minus_one_without_any(found):
    assert found["npz"]["label"].tolist() == found["step"]["label"].tolist() == LABELS.tolist()
    assert found["zip"]["label"].tolist() == [-1] * 4


def test_images_of_several_sizes_and_greyscale_ones_are_each_as_if_alone(found, fast):
    with torch.no_grad():
        expected = torch.cat([fast(prepare([pixels], "adm")).pooled for pixels in MIXED])
    np.testing.assert_allclose(
        found["mixed"]["features"], expected.numpy(), rtol=0, atol=1e-5 * float(expected.abs().max())
    )


def test_images_of_one_colour_are_marked_and_equal_images_have_equal_digests(found):
    assert found["mixed"]["constant"].tolist() == [False, False, False, True]
    assert len({*found["mixed"]["pixels"].tolist(), *found["npz"]["pixels"].tolist()}) == 8


# With a classifier that was trained here


@pytest.fixture(scope="module")
def judge(tmp_path_factory) -> tuple[Path, Weights, MemoryStore]:
    """Returns images, a classifier of them, and its location."""
    source = write_images(tmp_path_factory.mktemp("judge") / "images.npz")
    step, store = (
        TrainClassifier(real=real(source)[:64], network=JUDGE, epochs=1, batch_size=16),
        MemoryStore("features-of-a-judge"),
    )
    complete(step, store)
    return source, step.last(), store


def test_a_classifier_gives_its_pooled_features_and_logits_and_nothing_spatial(judge):
    source, weights, store = judge
    step = Features(samples=real(source)[64:96], network=weights)
    found = columns_of(step, store)
    bound = complete(step, store)
    network, rows = bound.network("network"), bound.rows("samples")
    with torch.no_grad():
        inner = network.features(scaled(torch.from_numpy(rows["image"]).permute(0, 3, 1, 2)), torch.zeros(32))  # type: ignore[operator]
        expected = {"features": network.pooled(inner), "logits": network.head(inner)}  # type: ignore[operator]
    assert found.keys() == {"index", "label", "features", "logits", "constant", "pixels"}
    assert found["index"].tolist() == list(range(32))  # counted from the slice's start
    np.testing.assert_array_equal(found["label"], rows["label"])
    for column, values in expected.items():
        np.testing.assert_allclose(found[column], values.numpy(), rtol=1e-4, atol=1e-5)


def test_a_classifier_judges_an_image_set_as_it_does_a_slice(judge, tmp_path):
    source, weights, store = judge
    rows = complete(Features(samples=real(source)[64:96], network=weights), store).rows("samples")
    np.savez(tmp_path / "same.npz", arr_0=rows["image"], arr_1=rows["label"])
    parts = (real(source)[64:96], ImageSet.at(str(tmp_path / "same.npz")))
    slices, files = (columns_of(Features(samples=part, network=weights), store) for part in parts)
    for column, values in slices.items():
        np.testing.assert_array_equal(files[column], values)


def test_pictures_of_three_equal_channels_are_one_channel_to_a_network_of_one(judge, tmp_path):
    source, weights, store = judge
    rows = complete(Features(samples=real(source)[64:96], network=weights), store).rows("samples")
    np.savez(tmp_path / "grey.npz", arr_0=rows["image"], arr_1=rows["label"])
    np.savez(tmp_path / "rgb.npz", arr_0=rows["image"].repeat(3, axis=3), arr_1=rows["label"])
    steps = [
        Features(samples=ImageSet.at(str(tmp_path / name)), network=weights)
        for name in ("grey.npz", "rgb.npz")
    ]
    grey, rgb = (columns_of(step, store) for step in steps)
    np.testing.assert_array_equal(rgb["features"], grey["features"])
    colour = rows["image"].repeat(3, axis=3)
    colour[5, 0, 0, 1] ^= 1
    np.savez(tmp_path / "colour.npz", colour)
    with pytest.raises(ValueError, match="expected a grey picture, found one in colour"):
        columns_of(Features(samples=ImageSet.at(str(tmp_path / "colour.npz")), network=weights), store)


def test_the_batch_is_not_identity(judge):
    source, weights, _ = judge
    assert (
        len(
            {
                Features(samples=real(source)[64:96], network=weights, batch_size=size).fingerprint
                for size in (1, 7, 50)
            }
        )
        == 1
    )


def test_a_shard_is_cut_into_batches_of_nearly_equal_size_whatever_came_before(judge, monkeypatch):
    source, weights, store = judge
    sizes: list[int] = []

    def recording(_spec, _network):
        def recorded(images):
            sizes.append(len(images))
            return {"features": torch.zeros(len(images), 1)}

        return recorded

    monkeypatch.setattr(ADMEncoder, "judge", recording)
    step = Features(samples=real(source)[64:96], network=weights, batch_size=3)
    for start, stop in ((0, 7), (7, 14), (14, 15), (0, 7)):
        sizes.clear()
        assert len(columns_of(step, store, start, stop)["features"]) == stop - start == sum(sizes)
        assert max(sizes) <= 3 and max(sizes) - min(sizes) <= 1 and len(sizes) == -(-(stop - start) // 3)


def test_a_shard_of_samples_is_read_once_whatever_the_batch(judge, monkeypatch):
    source, weights, store = judge
    step = Features(samples=real(source)[64:96], network=weights, batch_size=3)
    rows = step.shard_builder(complete(step, store))
    reads, read_shard = [], StepStore.read_shard
    monkeypatch.setattr(
        StepStore,
        "read_shard",
        lambda self, entry, columns=None: reads.append(entry) or read_shard(self, entry, columns),
    )
    rows(0, 32)
    assert len(reads) == 1


# Names of images that lie outside the root


def features_of(source: str) -> Features:
    return Features(samples=ImageSet.at(source), network=INCEPTION, front_end="adm")


def measure_of(source: str) -> Measure:
    return Measure(
        samples=StatisticsFile.at(source), statistics=StatisticsFile(source="r.npz", digest="0" * 64)
    )


def write_set(path: Path, change: int = 0) -> Path:
    np.savez(path, arr_0=np.full((3, 8, 8, 3), 7 + change, np.uint8))
    return path


def write_statistics(path: Path, change: int = 0) -> Path:
    np.savez(path, mu=np.full(4, 7.0 + change), sigma=np.eye(4))
    return path


KINDS = {"images": (write_set, features_of), "statistics": (write_statistics, measure_of)}


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_moved_has_the_same_fingerprint_and_what_was_changed_another(tmp_path, kind):
    write, step_of = KINDS[kind]
    first, moved, changed = (
        str(write(tmp_path / f"{name}.npz", change)) for name, change in (("a", 0), ("b", 0), ("c", 1))
    )
    assert step_of(first).fingerprint == step_of(moved).fingerprint != step_of(changed).fingerprint


@pytest.mark.parametrize(
    ("write", "look", "read"),
    [(write_set, ImageSet.at, "open()"), (write_statistics, StatisticsFile.at, "read()")],
    ids=["images", "statistics"],
)
def test_what_changed_after_the_recipe_was_built_is_refused_where_it_is_opened_anew(
    tmp_path, write, look, read
):
    path = write(tmp_path / "set.npz")
    made = look(str(path))
    program = (
        "import sys\nfrom dgflow.steps.sources.image_set import *\n"
        f"{type(made).__name__}.model_validate_json(sys.argv[1]).{read}"
    )

    def opened_anew() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program, made.model_dump_json()],
            capture_output=True,
            text=True,
            timeout=120,
        )

    assert opened_anew().returncode == 0
    write(path, change=1)
    found = opened_anew()
    assert found.returncode == 1
    assert (
        f"ValueError: set.npz: expected {'images' if write is write_set else 'statistics'} with digest "
        f"{made.digest}" in found.stderr
    )


def test_the_result_of_images_in_a_root_depends_on_their_content_alone(sources):
    steps = [features_of(sources["step"]), features_of(f"{sources['step']}[0:4]")]
    assert steps[0].fingerprint == steps[1].fingerprint != features_of(f"{sources['step']}[0:3]").fingerprint

"""Published samples: `datasets` loads what the root has."""

import json
from pathlib import Path

import numpy as np
import pytest
from publish.cards import card
from publish.hub_server import Hub

import dgflow
from dgflow.client.open_root import OpenRoot
from dgflow.publish.publish import publish


@pytest.fixture
def guided(opened: OpenRoot) -> str:
    """The name of the guided samples, which have a log-ratio."""
    return opened.step("evaluate").spec.arms["guided"][0].step.name


def loaded(folder: Path, monkeypatch: pytest.MonkeyPatch, cache: Path):
    """The data set of a folder, as anybody loads it."""
    import datasets

    return datasets.load_dataset(str(folder), split="train", cache_dir=str(cache))


def test_datasets_loads_the_images_labels_and_log_ratios(
    root: str, guided: str, opened: OpenRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(f"{root}/{guided}[4:28]", str(tmp_path / "fakes"))
    found = loaded(tmp_path / "fakes", monkeypatch, tmp_path / "cache")
    expected = opened.samples(guided)[4:28]
    assert found.column_names == ["index", "image", "label", "log_ratio"] and len(found) == 24
    images = np.stack([np.asarray(each) for each in found["image"]])
    assert np.array_equal(images, expected.images[..., 0])
    assert found["label"][:] == expected.labels.tolist() and found["index"][:] == list(range(4, 28))
    assert np.array_equal(np.asarray(found["log_ratio"][:], np.float32), expected.log_ratio)

    front, text = card(tmp_path / "fakes")
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "data/*.parquet"}]
    assert "`[4:28]` of seed 5" in text and "`Heun(steps=3)`" in text and opened.step(guided).name in text
    generation = json.loads((tmp_path / "fakes" / "generation.json").read_text())
    assert generation["steps"][guided]["fields"]["sampler"]["steps"] == 3


def test_a_data_set_on_the_hub_is_published_once(root: str, guided: str, hub: Hub) -> None:
    first = publish(f"{root}/{guided}", "hf:ada/fakes", licence="cc-by-4.0")
    repo = hub.repos["datasets/ada/fakes"]
    again = publish(f"{root}/{guided}", "hf:ada/fakes", licence="cc-by-4.0")
    assert first.changed and not again.changed and len(repo.commits) == 2
    assert "data/train-00000.parquet" in repo.commits[-1]
    assert b'load_dataset("ada/fakes", split="train")' in repo.commits[-1]["README.md"]


def test_latents_are_not_images(root: str, opened: OpenRoot, tmp_path: Path) -> None:
    features = next(name for name in opened.records.names if name.startswith("features"))
    with pytest.raises(ValueError, match=r"expected (images|generated images), found"):
        publish(f"{root}/{features}", str(tmp_path / "fakes"))
    assert dgflow.open(root).step(features).name == features

"""`dgflow export` of weights: another tool reads what the root holds, and an import restores it unchanged."""

import hashlib
import json
from pathlib import Path

import pytest
import tiny
import torch
from inprocess import complete
from safetensors import safe_open
from safetensors.torch import load_file
from steps.toy_networks import SCORES, pretrained
from tool_command import dgflow, made

import dgflow as dg
from dgflow.cli import open_root
from dgflow.specs.bound import Bound
from dgflow.specs.step import here
from dgflow.weights.tensors import load_weights

__all__ = ["dgflow", "made"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    step = tiny.score(tiny.write_images(folder / "images.npz"), epochs=2)
    complete(step, open_root(str(folder / "root")))
    return folder / "root", step


def same(found, expected) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_the_weights_of_an_epoch_are_written_with_what_they_are_and_come_back(trained, dgflow, tmp_path):
    root, step = trained
    store = open_root(str(root))
    out = str(tmp_path / "score.safetensors")
    found = dgflow("export", root / step.name, out)
    assert found.stdout == f"the weights of epoch 2 of {step.name} (SongUNet) written to {out}\n"
    (key,) = [entry.key for entry in store.list(f"{step.name}/data") if "epochs-00002" in entry.key]
    expected = load_weights(store.get(key))
    assert same(load_file(out), expected)
    with safe_open(out, framework="pt") as opened:
        facts = opened.metadata()
    assert json.loads(facts["network"])["type"] == "SongUNet" and facts["dgflow_epoch"] == "2"
    again = dg.Pretrained(source=out, network=step.network, image_size=8, channels=1, num_classes=2)
    assert same(load_weights(again.compute(Bound(), here, open_root(str(tmp_path / "other")))), expected)
    other = again.model_copy(update={"network": step.network.model_copy(update={"sigma_data": 1.0})})
    with pytest.raises(ValueError, match=r"sigma_data is 0\.5 in the file and 1\.0 in the recipe"):
        other.compute(Bound(), here, open_root(str(tmp_path / "third")))


def test_an_epoch_can_be_chosen_and_a_file_of_torch_written(trained, dgflow, tmp_path):
    root, step = trained
    assert "epoch 1 of" in dgflow("export", root / step.name, tmp_path / "first.pt", "--epoch", "1").stdout
    assert "of epoch" in dgflow("export", root / step.name, tmp_path / "best.pt", "--epoch", "best").stdout
    tensors = torch.load(tmp_path / "first.pt", weights_only=True)
    last = dgflow("export", root / step.name, tmp_path / "last.safetensors")
    assert last.status == 0 and not same(tensors, load_file(tmp_path / "last.safetensors"))
    assert (
        "a number from 1 to 2" in dgflow("export", root / step.name, tmp_path / "x.pt", "--epoch", "7").error
    )
    assert "ends in .safetensors, .pt" in dgflow("export", root / step.name, tmp_path / "x.npz").error
    before = hashlib.sha256((tmp_path / "first.pt").read_bytes()).hexdigest()
    assert "not overwritten" in dgflow("export", root / step.name, tmp_path / "first.pt").error
    assert hashlib.sha256((tmp_path / "first.pt").read_bytes()).hexdigest() == before


def test_the_weights_of_a_pretrained_are_written(dgflow, tmp_path):
    step = pretrained(tmp_path, "NCSNpp", **SCORES["NCSNpp"])
    complete(step, open_root(str(tmp_path / "root")))
    out = tmp_path / "again.safetensors"
    assert dgflow("export", tmp_path / "root" / step.name, out).status == 0
    assert same(load_file(out), load_file(Path(step.source)))


def test_an_epoch_of_samples_is_refused(made, dgflow, tmp_path):
    found = dgflow("export", made / "a.npz", tmp_path / "b.npz", "--epoch", "2")
    assert "expected --epoch only with a training" in found.error

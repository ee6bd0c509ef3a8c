"""A recipe may end with samples, weights or another result: every command works with it, and `run` says where
the product is."""

import json
import shlex

import numpy as np
import pytest
import tiny
from inprocess import execute_here

import dgflow as dg
from dgflow.cli import tool
from dgflow.cli.guard import guarded
from dgflow.cli.recipe import application
from dgflow.images.sources import open_images

SAMPLES, STEP = 16, "generate"


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """The command line of a recipe that returns `product`, in this process and without Ray; gives status and
    output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dgflow.cli.recipe.execute", execute_here)
    tiny.write_images(tmp_path / "images.npz")

    def call(product, *arguments):
        app = application(lambda: product, "product")
        status = guarded(lambda: app(args=list(arguments), standalone_mode=False))
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return status, printed.out

    return call


def test_a_recipe_of_a_slice_makes_it_and_says_where_it_is_and_how_to_export_it(call, tmp_path):
    samples = tiny.fakes(tmp_path / "images.npz")[:SAMPLES]
    status, plan = call(samples, "plan", "--json")
    steps = json.loads(plan.splitlines()[-1])["steps"]
    assert status == 0 and (steps[-1]["name"], steps[-1]["todo"]) == (samples.step.name, 2)
    status, run = call(samples, "run", "--json")
    made = json.loads(run.splitlines()[-1])["made"]
    address = f"{tmp_path}/runs/product/{samples.step.name}[0:16]"
    assert status == 0 and made == {"step": samples.step.name, "address": address, "rows": SAMPLES}
    assert f"16 samples of generate seed 1: {address}" in run
    assert f"dgflow export '{address}' samples.npz" in run
    images = open_images(address)
    assert images.rows == SAMPLES
    for command, expected in (("status", 0), ("verify", 0), ("report", 0)):
        assert call(samples, command)[0] == expected
    assert (tmp_path / "runs/product/report.html").exists()
    assert call(tiny.fakes(tmp_path / "images.npz")[:24], "status")[0] == 1  # a larger slice is not there


def test_a_recipe_of_weights_trains_and_says_which_file_they_are(call, tmp_path):
    weights = tiny.score(tmp_path / "images.npz").epoch(1)
    assert call(weights, "plan")[0] == 0
    status, run = call(weights, "run", "--json")
    made = json.loads(run.splitlines()[-1])["made"]
    assert status == 0 and made["step"] == weights.step.name
    assert "/data/epochs-00001-" in made["path"] and made["path"] in run
    assert (tmp_path / made["path"]).stat().st_size > 1000
    (line,) = [line for line in run.splitlines() if line.startswith("as a file: dgflow export ")]
    words = shlex.split(line.removeprefix("as a file: dgflow "))
    assert guarded(lambda: tool.app(args=words, standalone_mode=False)) == 0
    assert (tmp_path / "weights.safetensors").stat().st_size > 1000
    assert call(weights, "status")[0] == 0


def test_a_recipe_of_another_result_says_where_it_is(call, tmp_path):
    path = tmp_path / "images.npz"
    judge = dg.TrainClassifier(real=tiny.real(path)[:64], network=tiny.JUDGE, epochs=1, batch_size=16)
    measure = dg.Measure(
        samples=tiny.real(path)[:32], reference=tiny.real(path)[32:64], features=judge.last()
    )
    for product in (measure, measure.result()):
        status, run = call(product, "run", "--json")
        assert status == 0
        path_of = json.loads(run.splitlines()[-1])["made"]["path"]
        assert json.loads((tmp_path / path_of).read_bytes())["values"]


def test_the_smoke_run_of_a_slice_plans_the_same_steps_at_toy_size(call, tmp_path):
    samples = tiny.fakes(tmp_path / "images.npz")[:5000]
    status, plan = call(samples, "plan", "--smoke", "--json")
    steps = json.loads(plan.splitlines()[-1])["steps"]
    assert status == 0 and [step["title"] for step in steps][-1] == "generate seed 1"
    assert steps[-1]["todo"] <= 4  # of 625 shards


def test_images_of_a_recipe_of_real_ones_are_those_of_the_source(call, tmp_path):
    real = tiny.real(tmp_path / "images.npz")[:10]
    status, run = call(real, "run", "--json")
    assert status == 0
    images = open_images(json.loads(run.splitlines()[-1])["made"]["address"])
    with np.load(tmp_path / "images.npz") as arrays:
        assert images.rows == 10 and len(arrays["image"]) == 96

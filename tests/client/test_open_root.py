"""A root by `dgflow.open`: steps, samples, frames, figures and networks; and what each mistake is told."""

import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from report.made_up_figures import every_kind

import dgflow
from dgflow import extras
from dgflow.client.plots import plot
from dgflow.client.steps import StepView
from dgflow.engine.recorded import RecordedRoot
from dgflow.report.summary import summarise, table
from dgflow.specs.figures import Lines, Table
from dgflow.store.address import ROOT_MARK
from dgflow.store.memory import MemoryStore


def of_seed(run, seed: int, *, guided: bool) -> StepView:
    (found,) = (
        step
        for step in run.steps("generate")
        if step.spec.seed == seed and bool(step.spec.guidance) == guided
    )
    return found


def test_a_root_lists_its_steps_by_kind_and_by_recipe(run):
    assert len(run.steps()) == len(run.frame()) == 21
    assert {step.spec.seed for step in run.steps("generate")} == {1, 101, 102}
    in_order = [step.kind for step in run.steps(recipe="digits")]
    assert (in_order[0], in_order[-1]) == ("list-images", "evaluate") and len(in_order) == 21
    frame = run.frame()
    assert frame.loc[run.steps("import-images")[0].name, "samples"] == 160
    assert set(frame["recipes"]) == {"digits"} and (frame["bytes"] > 0).all()
    assert "5 generate" in repr(run)


def test_the_table_is_that_of_the_recipe(run):
    target = run.steps("evaluate")[0].spec
    assert run.table() == run.table("digits") == table(summarise(target, run.store))


def test_frames_hold_the_committed_numbers(run):
    training = run.steps("train-discriminator")[0]
    epochs = training.frame()
    assert epochs.index.tolist() == [1, 2]
    assert epochs.loc[2, "held_out_loss"] == training.metrics[2]["held_out_loss"]
    step = run.steps("evaluate")[0]
    arms = step.result["arms"]
    means, seeds = step.frame(), step.frame(per_seed=True)
    assert sorted(means.index) == ["guided", "unguided"]
    assert means.loc["guided", "fid"] == pytest.approx(np.mean(arms["guided"]["fid"]["per_seed"]))
    assert means.loc["guided", "fid_spread"] == pytest.approx(
        np.std(arms["guided"]["fid"]["per_seed"], ddof=1)
    )
    assert seeds[seeds.index == "guided"]["fid"].tolist() == arms["guided"]["fid"]["per_seed"]
    assert seeds["seed"].tolist() == [101, 102, 101, 102]
    guided = of_seed(run, 101, guided=True)
    assert guided.frame()["log_ratio"].tolist() == guided.samples[:].log_ratio.tolist()
    statistics = run.steps("statistics")[0].result
    assert statistics["mu"].shape == (32,)


def test_samples_are_those_committed_across_shards(run):
    guided = of_seed(run, 101, guided=True)
    whole = np.concatenate([part.images for part in guided.samples])
    assert len(guided.samples) == len(whole) == 128 and len(guided.samples.shards) == 2
    part = guided.samples[60:70]
    assert (part.images == whole[60:70]).all() and part.index.tolist() == list(range(60, 70))
    assert guided.samples[5].index.tolist() == [5]
    torch.testing.assert_close(part.torch(), torch.from_numpy(whole[60:70]).permute(0, 3, 1, 2) / 127.5 - 1)
    assert set(guided.samples.read(slice(0, 3), ["label"]).columns) == {"index", "label"}


def test_a_grid_has_the_pixels_of_the_images(run):
    part = run.steps("import-images")[0].samples[:10]
    sheet = np.asarray(part.grid(columns=5, scale=1))
    assert sheet.shape == (33, 84, 4)
    assert (sheet[17:, 17:33, :3] == part.images[6]).all() and not sheet[:, 16, 3].any()
    from_tensor = np.asarray(dgflow.image_grid(part.torch(), columns=5, scale=1))
    assert (from_tensor == sheet).all()
    shown = part._repr_png_()
    assert shown is not None and Image.open(io.BytesIO(shown)).height == 33 * (560 // 135)


def test_a_step_made_again_and_samples_of_its_settings_are_the_committed_ones(run):
    guided = of_seed(run, 101, guided=True)
    committed = guided.samples[60:70]
    again = guided.again(60, 70)
    assert set(again.columns) == set(committed.columns)
    assert all((again[name] == committed[name]).all() for name in committed.columns)
    settings = guided.spec
    mine = dgflow.sample(
        run.score(), settings.guidance, n=10, start=60, sampler=settings.sampler, seed=settings.seed
    )
    assert (mine.images == committed.images).all() and (mine.labels == committed.labels).all()
    np.testing.assert_allclose(mine.log_ratio, committed.log_ratio, atol=1e-5)
    assert (
        committed.images.std() > 20
        and not (mine.images == of_seed(run, 102, guided=True).samples[60:70].images).all()
    )
    plain = dgflow.sample(run.score(), n=10, start=60, sampler=settings.sampler, seed=settings.seed)
    assert (plain.images == of_seed(run, 101, guided=False).samples[60:70].images).all()
    assert (plain.images != mine.images).any()


def test_images_again_are_the_imported_ones(run, monkeypatch, folder):
    monkeypatch.chdir(folder)
    step = run.steps("import-images")[0]
    assert (step.again(30, 50).images == step.samples[30:50].images).all()


def test_networks_are_those_of_the_used_epoch_and_answer_by_their_definitions(run):
    score, discriminator = run.score(), run.discriminator()
    used = run.steps("train-discriminator")[0]
    losses = [used.metrics[epoch]["held_out_loss"] for epoch in (1, 2)]
    assert discriminator.epoch == 1 + int(np.argmin(losses)) and score.epoch == 2
    assert run.discriminator(epoch=1).epoch == 1 and run.discriminator(epoch="last").epoch == 2
    real = run.steps("import-images")[0].samples[:4]
    x = real.torch().double()
    # At a very small noise level the denoiser returns its input, whatever the network: c_skip is 1, c_out 0.
    torch.testing.assert_close(score.denoise(x, 1e-6, real.labels), x, atol=1e-5, rtol=0)
    point = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator.log_ratio(point, 0.5, real.labels).sum(), point)
    step = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends = [discriminator.log_ratio(x + h * step, 0.5, real.labels).sum() for h in (0.01, -0.01)]
    assert float((ends[0] - ends[1]) / 0.02) == pytest.approx(float((gradient * step).sum()), rel=0.05)
    from_bytes = discriminator.log_ratio(real.images, 0.5, real.labels)
    torch.testing.assert_close(from_bytes, discriminator.log_ratio(x.float(), [0.5] * 4, real.labels))


def test_every_chart_of_the_page_is_drawn_with_the_same_data(run):
    training = run.steps("train-discriminator")[0]
    assert [figure.title for figure in training.figures] == [
        "loss",
        "held-out accuracy",
        "held-out loss",
        "accuracy",
        "calibration error",
    ]
    (axes,) = training.plot("loss").axes
    drawn = [np.asarray(line.get_ydata()).tolist() for line in axes.get_lines()]
    losses = training.frame()
    assert losses["train_loss"].tolist() in drawn and losses["held_out_loss"].tolist() in drawn
    titles = [axes.get_title() for axes in training.plot().axes if axes.get_title()]
    assert titles == [figure.title for figure in training.figures]
    page = (Path(run.url) / "report.html").read_text()
    assert all(f">{figure.title}" in page for figure in training.figures)
    sheet = run.steps("evaluate")[0].plot()
    assert len(sheet.axes) == 1


@pytest.mark.parametrize("figure", every_kind(), ids=lambda figure: figure.title[:12])
def test_every_kind_of_figure_becomes_a_picture(figure):
    picture = plot([figure])._repr_png_()  # type: ignore[attr-defined]
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("L"))
    assert pixels.min() < 128 and pixels.shape[1] > 300
    if isinstance(figure, Lines):
        assert len(plot([figure]).axes[0].containers) == len(figure.curves)
    if isinstance(figure, Table):
        assert len(plot([figure]).axes[0].tables) == 1


MISTAKES = {
    "another kind": (lambda run: run.steps("generat"), "kind 'generat' in .*, found those of: evaluate, "),
    "another recipe": (lambda run: run.steps(recipe="x"), "of the recipe x in .*, found those of: digits"),
    "several": (lambda run: run.step("generate"), "found 5 of that prefix: generate-"),
    "no score": (lambda run: run.score("train-dis"), "expected a step of a score network, found train-dis"),
    "no epoch": (lambda run: run.score(epoch=9), "weights epoch:9 of train-score-.*, found epochs 1 to 2"),
    "words": (lambda run: run.score(epoch="first"), 'a number, "last" or "best", found \'first\''),
    "no samples": (lambda run: run.steps("evaluate")[0].samples, "makes samples .*, found evaluate-"),
    "no epochs": (lambda run: run.steps("evaluate")[0].metrics, "makes epochs .*, found evaluate-"),
    "no file": (lambda run: run.steps("generate")[0].result, "makes a file .*, found generate-"),
    "backwards": (lambda run: run.steps("generate")[0].samples[9:5], r"samples\[100:116\], found \[9:5\] of"),
    "negative": (lambda run: run.steps("generate")[0].samples[-5:], r"found \[-5:\] of"),
    "strides": (lambda run: run.steps("generate")[0].samples[0:9:2], r"found \[0:9:2\] of"),
    "too many": (lambda run: of_seed(run, 101, guided=True).samples[:999], r"\[0:999\] .*, found \[0:128\]"),
    "no latents": (
        lambda run: of_seed(run, 101, guided=True).samples[0].latents,
        "a column of index, label, image, log_ratio, found 'latent'",
    ),
    "no labels": (
        lambda run: run.discriminator().log_ratio(np.zeros((2, 16, 16, 1), np.uint8), 1.0),
        "expected labels, one class of 10 per sample",
    ),
    "wrong labels": (
        lambda run: run.discriminator().log_ratio(np.zeros((2, 16, 16, 1), np.uint8), 1.0, 10),
        "labels from 0 to 9 for .*, found 10 to 10",
    ),
    "wrong shape": (
        lambda run: run.score().denoise(torch.zeros(2, 3, 16, 16), 1.0, 0),
        r"float \[n, 1, 16, 16\], or images .*, found torch.float32 \[2, 3, 16, 16\]",
    ),
    "wrong sigmas": (
        lambda run: run.score().denoise(torch.zeros(2, 1, 16, 16), [1.0] * 3, 0),
        r"sigma as a number or \[2\], one per sample, found shape \[3\]",
    ),
    "noise level 0": (lambda run: run.score().denoise(torch.zeros(2, 1, 16, 16), 0, 0), "above 0, found 0"),
    "labels that are no classes": (
        lambda run: run.score().denoise(torch.zeros(2, 1, 16, 16), 1.0, [0.0, 1.5]),
        "labels as integers, found torch.float32",
    ),
    "no rows": (
        lambda run: run.score().denoise(torch.zeros(0, 1, 16, 16), 1.0, []),
        r"found torch.float32 \[0, 1, 16, 16\]",
    ),
    "integers": (
        lambda run: run.score().denoise(torch.zeros(2, 1, 16, 16, dtype=torch.int64), 1.0, 0),
        "samples float .*, found torch.int64",
    ),
    "float images": (
        lambda run: dgflow.image_grid(np.zeros((2, 4, 4, 1))),
        r"images uint8 .*, found float64 \[2, 4, 4, 1\]",
    ),
    "no such figure": (
        lambda run: run.steps("train-score")[0].plot("x"),
        "title begins with 'x' of train-score-.*, found: 'loss'",
    ),
    "nothing drawn": (lambda run: run.steps("statistics")[0].plot(), "a figure of statistics-.* found: none"),
    "no table": (lambda run: run.steps("statistics")[0].frame(), "makes a table .*, found statistics-"),
    "no sample": (lambda run: dgflow.sample(run.score(), n=0), "at least one sample, found n=0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_what_is_there(run, mistake):
    call, message = MISTAKES[mistake]
    with pytest.raises(ValueError) as error:
        call(run)
    assert re.search(message, str(error.value)), str(error.value)


def test_where_no_root_is_the_option_of_a_run_is_named(tmp_path):
    with pytest.raises(ValueError, match="found no dgflow.json there; give the --root of a run"):
        dgflow.open(tmp_path)


def test_an_empty_root_says_that_it_is_and_one_of_another_version_is_refused(tmp_path):
    mark = tmp_path / "dgflow.json"
    mark.write_bytes(ROOT_MARK)
    run = dgflow.open(tmp_path)
    assert run.steps() == run.runs == [] and len(run.frame()) == 0 and repr(run).endswith(": no steps>")
    with pytest.raises(ValueError, match="expected a score network in .*, found none with committed weights"):
        run.score()
    with pytest.raises(ValueError, match="expected runs in .*, found none$"):
        run.table()
    with pytest.raises(ValueError, match="begins with 'x', found no steps"):
        run.step("x")
    mark.write_text('{"dgflow_root": 2}')
    with pytest.raises(ValueError, match="expected a root of format 1"):
        dgflow.open(tmp_path)


def test_several_discriminators_are_listed(run, monkeypatch):
    names = [step.name for step in run.steps() if step.kind in ("train-discriminator", "train-score")]
    real = run.records.step(names[0])
    monkeypatch.setitem(run.records._live, names[1], real)
    with pytest.raises(ValueError, match=f"expected one discriminator in .*, found {', '.join(names)}; give"):
        run.discriminator()


def test_networks_of_another_root_are_refused(run):
    step, another = of_seed(run, 101, guided=True).spec, RecordedRoot(MemoryStore("another"))
    with pytest.raises(ValueError, match="memory://another, found train-score-.*, which is not in this root"):
        another.bind(step)


def test_a_missing_package_is_told_with_the_extra_that_has_it(run, monkeypatch):
    monkeypatch.setattr(extras, "installed", lambda package: package != "pandas")
    with pytest.raises(
        ValueError, match=r"a DataFrame needs the package pandas: pip install 'dgflow\[python\]'"
    ):
        run.frame()


def test_looking_at_a_root_loads_neither_torch_nor_ray_nor_matplotlib(folder):
    program = (
        "import sys, dgflow; run = dgflow.open('runs/digits'); run.steps('generate')[0].samples[3:5].labels;"
        "run.table(); run.steps('train-score')[0].metrics, run.steps('train-score')[0].figures;"
        "print(sorted({'torch', 'ray', 'matplotlib', 's3fs'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
    assert (found.returncode, found.stdout.strip()) == (0, "[]"), found.stderr


def test_a_smoke_run_is_named_as_such(run, monkeypatch):
    assert "smoke" not in repr(run)
    monkeypatch.setattr("dgflow.client.open_root.is_smoke_run", lambda store: True)
    assert "of a smoke run, whose results are meaningless: " in repr(run)

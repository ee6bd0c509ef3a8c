"""The content for trackers: every number in a root's receipts, under stable names."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from report.fake_root import FID, FLOOR
from track.conftest import receipts

import dgflow
from dgflow.store.open import open_store
from dgflow.store.step_store import StepStore
from dgflow.track.content import Picture, Sheet, TrackedRun, Value, tracked


def contents(root) -> dict[str, TrackedRun]:
    runs = list(tracked(dgflow.open(root)))
    assert len({run.name for run in runs}) == len({run.id for run in runs}) == len(runs)
    for run in runs:
        assert len({item.key for item in run.items}) == len(run.items)
        assert [item.step for item in run.items] == sorted(item.step for item in run.items)
    return {run.name: run for run in runs}


def values(run: TrackedRun) -> dict[tuple[str, int], float]:
    return {item.key: item.value for item in run.items if isinstance(item, Value)}


def test_every_measurement_of_every_epoch_is_told_under_the_name_that_recipes_choose_by(made):
    runs = contents(made)
    for kind in ("train-score", "train-classifier", "train-discriminator"):
        for step, epochs in receipts(made, kind, "epochs").items():
            expected = {}
            for epoch, receipt in epochs.items():
                metrics = dict(receipt["metrics"])
                for level in metrics.pop("by_sigma", ()):
                    low, high = level["sigma"]
                    for name in ("loss", "accuracy", "calibration_error"):
                        expected[f"training_by_sigma_{name}/{low:.3g} to {high:.3g}", epoch] = level[name]
                for name in {"workers", "data_wait"} & metrics.keys():
                    expected[f"work/{name}", epoch] = metrics.pop(name)
                expected |= {(f"training/{name}", epoch): value for name, value in metrics.items()}
                expected["work/seconds", epoch] = receipt["seconds"]
            assert values(runs[step]) == expected
            times = {item.time for item in runs[step].items if item.step == 3}
            assert times == {epochs[3]["created"]}


def test_arms_have_mean_and_spread_over_seeds_and_the_floor_is_the_tables(made):
    runs = contents(made)
    (table,) = [name for name in runs if name.startswith("evaluate-") and "/" not in name]
    for arm in ("unguided", "guided"):
        found = values(runs[f"{table}/{arm}"])
        assert found["result/fid", 0] == pytest.approx(np.mean(FID[arm]), abs=1e-9)
        assert found["result/fid_spread", 0] == pytest.approx(np.std(FID[arm], ddof=1), abs=1e-9)
        assert runs[f"{table}/{arm}"].parent == table
    assert values(runs[table]) == {(f"result/{name}", 0): value for name, value in FLOOR.items()}
    (sheet,) = [item for item in runs[table].items if isinstance(item, Sheet)]
    assert "| unguided | 38.87 ± 0.45 |" in sheet.markdown


def test_pictures_are_the_first_samples_of_the_step_and_of_the_arms_first_seed(made):
    runs = contents(made)
    store = dgflow.open(made)
    for name, run in runs.items():
        if pictures := [item for item in run.items if isinstance(item, Picture)]:
            (picture,) = pictures
            step = run.name if run.parent is None else _first_step(run)
            images = store.samples(step).read(slice(0, 64)).images
            grid = np.asarray(Image.open(io.BytesIO(picture.png())).convert("RGB"))
            assert (grid[17:33, 34:50, 0] == images[10, :, :, 0]).all(), name  # row 1, column 2
    assert sum(name.startswith(("generate", "import")) for name in runs) == 8
    assert not any(name.startswith(("features", "measure")) for name in runs)


def _first_step(run: TrackedRun) -> str:
    step = dgflow.open(run.root).step(run.name.partition("/")[0]).spec
    return step.arms[run.configuration["arm"]][0].step.name


def test_a_picture_is_told_when_its_samples_are_there_and_is_the_same_from_then_on(root):
    step = next(iter(receipts(root, "generate", "shards")))
    for path in root.glob(f"{step}/shards/00000-*"):
        hidden = path.rename(root.parent / path.name)
    assert step not in contents(root)
    hidden.rename(root / step / "shards" / hidden.name)
    assert step in contents(root)


def test_a_step_that_was_made_again_from_other_inputs_is_a_run_of_its_own(root):
    step = next(iter(receipts(root, "train-score", "epochs")))
    before = contents(root)
    document = json.loads((root / step / "step.json").read_text())
    again = StepStore(open_store(str(root)), "train-score", document["fingerprint"])
    again.commit(
        "epochs", 1, b"weights", suffix="safetensors", rows_sha256="0" * 64, inputs={"real": "f" * 64},
        seconds=1.0, device="cpu", versions={}, metrics={"train_loss": 9.0},
    )  # fmt: skip
    after = contents(root)
    (new,) = after.keys() - before.keys()
    assert new.startswith(f"{step}-from-")
    assert values(after[new])["training/train_loss", 1] == 9.0
    assert after.keys() - {new} == before.keys() - {step}


def test_a_configuration_has_settings_and_where_they_are_from(made):
    runs = contents(made)
    (name,) = [name for name in runs if name.startswith("train-score")]
    found = runs[name].configuration
    assert found["root"] == f"file://{made}" and found["step"] == name
    assert found["network.type"] == "SongUNet" and found["network.channel_mult"] == "[1, 2]"
    assert found["real"].startswith("import-images-") and found["real"].endswith("[0:150]")
    arm = next(run for run in runs.values() if run.name.endswith("/guided"))
    assert arm.configuration["guidance.0.weight"] == 2.0 and arm.configuration["sampler.type"] == "Heun"


def test_runs_of_a_smoke_root_are_marked(root):
    assert not any("smoke_run" in run.configuration for run in contents(root).values())
    (root / "smoke.json").write_text('{"smoke":2}')
    assert all(run.configuration["smoke_run"] is True for run in contents(root).values())

"""The command line as a user meets it: options, exit status, and one clear message for what went wrong.

What a process of its own makes no difference to is called `here`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from inprocess import execute_here
from recipe_command import here

from dgflow import main
from dgflow.store.open import open_store

__all__ = ["here"]

TINY = Path(tiny.__file__)
DIGITS = TINY.parents[1] / "workflows" / "digits.py"
NO_CLOUD = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DGFLOW_"))}
NO_CLOUD |= {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    "AWS_CONFIG_FILE": "/nonexistent",
}


def call(
    *arguments: object, recipe: Path = TINY, cwd: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(recipe), *map(str, arguments)],
        cwd=cwd,
        env=NO_CLOUD | (environment or {}),
        capture_output=True,
        text=True,
        timeout=1000,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    tiny.write_images(folder / "images.npz")
    return folder


@pytest.fixture(scope="module")
def finished(folder, own_ray):
    """The toy recipe, run once; its root and what it printed."""
    # No command means run. One worker trains, so that a test can train again in its own process.
    result = call("--root", "root", "--json", "--workers", "1", "--train-workers", "1", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "root", result


def error(result: subprocess.CompletedProcess[str]) -> str:
    """Returns the message of a command that failed without a traceback."""
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    return result.stderr


def test_run_prints_the_table_and_one_json_object_on_its_last_line(finished):
    root, result = finished
    found = json.loads(result.stdout.splitlines()[-1])
    assert set(found["arms"]) == {"unguided", "guided"}
    assert set(found["arms"]["guided"]["fid"]) == {"mean", "spread", "per_seed", "errors"}
    assert {"fid", "is", "precision", "recall"} <= set(found["arms"]["guided"])
    assert found["floor"]["fid"] >= 0
    assert all(set(step) >= {"fingerprint", "seconds", "shards"} for step in found["steps"].values())
    assert "unguided" in result.stdout and "real against real" in result.stdout
    assert (root / "report.html").read_text().lower().startswith("<!doctype html>")


def test_progress_is_plain_lines_where_there_is_no_terminal(finished):
    _, result = finished
    assert "train-score: done, 2 epochs in" in result.stderr
    assert "\x1b" not in result.stderr and "\r" not in result.stderr


def test_a_second_run_does_nothing_and_does_not_start_ray(finished, folder):
    root, first = finished
    program = (
        "import sys; sys.argv = ['tiny.py', 'run', '--root', 'root', '--json']; import tiny, dgflow\n"
        "try: dgflow.main(tiny.workflow)\nfinally: print('ray loaded:', 'ray' in sys.modules)"
    )
    before = sorted(path.stat().st_mtime_ns for path in root.rglob("*.json"))
    again = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=NO_CLOUD | {"PYTHONPATH": str(TINY.parent)},
        capture_output=True,
        text=True,
        timeout=1000,
    )
    *_, line, loaded = again.stdout.splitlines()
    assert loaded == "ray loaded: False"
    assert json.loads(line) == json.loads(first.stdout.splitlines()[-1])
    assert sorted(path.stat().st_mtime_ns for path in root.rglob("*.json")) == before


def test_plan_status_and_verify_of_a_complete_root(finished, folder, here):
    plan = here("plan", "--root", "root", "--json", cwd=folder)
    assert {step["action"] for step in json.loads(plan.stdout.splitlines()[-1])["steps"]} == {"reuse"}
    assert here("status", "--root", "root", cwd=folder).returncode == 0
    verify = here("verify", "--root", "root", "--json", cwd=folder)
    assert verify.returncode == 0
    assert json.loads(verify.stdout.splitlines()[-1])["damaged"] == []


def test_plan_names_the_field_that_changed(finished, folder, here):
    plan = here("plan", "--root", "root", "--guidance-weight", "2.0", cwd=folder)
    assert plan.returncode == 0
    assert "guidance[0].weight 1.0 -> 2.0" in [line.strip() for line in plan.stdout.splitlines()]


def test_a_sweep_by_command_plans_only_what_the_finished_run_lacks(finished, folder, here):
    sweep = here("sweep", "--root", "root", "--guidance-weight", "1,2", "--plan", "--json", cwd=folder)
    assert sweep.returncode == 0, sweep.stderr
    steps = json.loads(sweep.stdout.splitlines()[-1])["steps"]
    todo = [(step["title"].partition(" ")[0], step["todo"]) for step in steps if step["todo"]]
    # 32 guided samples in shards of 8, their features and metrics, the evaluation, the table
    assert todo == [("generate", 4), ("features", 1), ("metrics", 1), ("evaluate", 1), ("sweep", 1)]


def test_status_of_an_unfinished_run_is_not_zero(finished, folder, here):
    assert here("status", "--root", "root", "--samples", "64", cwd=folder).returncode == 1


def test_a_flipped_byte_is_found_and_named(finished, folder, tmp_path, here):
    import shutil

    shutil.copytree(finished[0], tmp_path / "root")
    shutil.copy(folder / "images.npz", tmp_path)
    victim = sorted((tmp_path / "root").glob("generate-*/data/00001-*.parquet"))[0]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    result = here("verify", "--root", "root", cwd=tmp_path)
    assert result.returncode == 1
    assert f"{victim.parts[-3]} shards/00001" in result.stdout


def test_a_truncated_and_a_missing_weight_file_are_found(finished, folder, tmp_path, here):
    import shutil

    shutil.copytree(finished[0], tmp_path / "root")
    shutil.copy(folder / "images.npz", tmp_path)
    truncated = sorted((tmp_path / "root").glob("train-score-*/data/epochs-00001-*"))[0]
    truncated.write_bytes(truncated.read_bytes()[:50])
    sorted((tmp_path / "root").glob("train-discriminator-*/data/epochs-00002-*"))[0].unlink()
    result = here("verify", "--root", "root", cwd=tmp_path)
    assert result.returncode == 1
    assert "2 damaged" in result.stdout
    assert "epochs/00001" in result.stdout and "epochs/00002" in result.stdout


def test_repair_rebuilds_what_is_damaged_to_the_same_rows_and_weights(
    finished, folder, tmp_path, monkeypatch, capsys
):
    """Without Ray: what `run` executes it with is another's test."""
    import shutil

    monkeypatch.setattr("dgflow.cli.recipe.execute", execute_here)
    monkeypatch.setattr(sys, "argv", ["tiny.py", "verify", "--repair", "--root", "root"])
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished[0], tmp_path / "root")
    shutil.copy(folder / "images.npz", tmp_path)
    shard = sorted((tmp_path / "root").glob("generate-*/data/00001-*.parquet"))[0]
    weights = sorted((tmp_path / "root").glob("train-discriminator-*/data/epochs-00001-*"))[0]
    before = shard.read_bytes(), weights.read_bytes()
    shard.write_bytes(before[0][:-100])
    weights.unlink()
    with pytest.raises(SystemExit) as ended:
        main(tiny.workflow)
    printed = capsys.readouterr()
    assert not ended.value.code, printed.out + printed.err
    assert "0 damaged, 0 missing" in printed.out
    assert (shard.read_bytes(), weights.read_bytes()) == before


def test_an_unknown_option_is_named(folder, here):
    result = here("run", "--sampels", "3", cwd=folder)
    assert result.returncode == 2
    assert "--sampels" in error(result) and "--samples" in error(result)


def test_a_value_of_the_wrong_type_is_named(folder, here):
    result = here("run", "--samples", "many", cwd=folder)
    assert result.returncode == 2
    assert "--samples" in error(result) and "expected a whole number, found 'many'" in result.stderr


def test_a_value_that_makes_no_sense_is_refused_before_anything_starts(folder, here):
    result = here("run", "--root", "fresh", "--samples", "0", cwd=folder)
    assert "greater than 0" in error(result)
    assert not (folder / "fresh").exists()


def test_a_folder_of_other_things_is_not_taken_for_a_root(tmp_path, here):
    tiny.write_images(tmp_path / "images.npz")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.txt").write_text("meow")
    result = here("run", "--root", "photos", cwd=tmp_path)
    assert "expected a dgflow root" in error(result) and "cat.txt" in error(result)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.txt"]


def test_a_root_of_another_format_is_refused(tmp_path, here):
    tiny.write_images(tmp_path / "images.npz")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "dgflow.json").write_text('{"dgflow_root": 99}')
    assert "root of format 1" in error(here("plan", "--root", "root", cwd=tmp_path))


def test_a_file_as_root_is_refused(folder, here):
    assert "is a file and not a folder" in error(here("plan", "--root", "images.npz", cwd=folder))


def test_a_step_recorded_as_another_names_the_field(finished, folder, tmp_path):
    import shutil

    shutil.copytree(finished[0], tmp_path / "root")
    shutil.copy(folder / "images.npz", tmp_path)
    recorded = sorted((tmp_path / "root").glob("train-score-*/step.json"))[0]
    recorded.write_text(recorded.read_text().replace('"batch_size":16', '"batch_size":17'))
    found = error(call("run", "--root", "root", "--epochs", "3", cwd=tmp_path))
    assert "batch_size" in found and "17" in found and "16" in found
    assert "step.json" in call("verify", "--root", "root", cwd=tmp_path).stdout


def test_a_source_that_is_not_there_is_named(tmp_path):
    assert "expected images at images.npz, found nothing there" in error(
        call("run", "--root", "root", cwd=tmp_path)
    )


def test_missing_credentials_are_named_with_what_to_set(folder):
    result = call(
        "plan",
        "--root",
        "s3://bucket/prefix",
        cwd=folder,
        environment={"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
    )
    assert "AWS_ACCESS_KEY_ID" in error(result)


def test_credentials_in_the_url_are_refused_and_not_repeated(folder, here):
    result = here("plan", "--root", "s3://key:topsecret@bucket/prefix", cwd=folder)
    assert "set credentials and options in the environment" in error(result)
    assert "topsecret" not in result.stderr + result.stdout


def test_a_label_that_cannot_be_fails_the_run_with_its_image_before_any_is_imported(tmp_path):
    tiny.write_images(tmp_path / "images.npz")
    with np.load(tmp_path / "images.npz") as arrays:
        label = arrays["label"].copy()
        label[17] = 7
        np.savez(tmp_path / "images.npz", image=arrays["image"], label=label)
    found = error(call("run", "--root", "root", cwd=tmp_path))
    assert "expected labels 0 to 1, found 7 at image 17 of images.npz" in found
    assert not list((tmp_path / "root").glob("import-images-*/shards/*.json"))


@pytest.mark.slow
def test_the_whole_recipe_on_s3(here, folder, own_ray, s3_environment, s3_url, monkeypatch):
    """Against a real server, with the same numbers as in one process on the local disk, and no secret in
    anything that is written."""
    arguments = ("run", "--root", s3_url, "--json", "--train-workers", "1")
    result = call(*arguments, cwd=folder, environment=s3_environment)
    assert result.returncode == 0, result.stderr
    monkeypatch.setattr("dgflow.cli.recipe.execute", execute_here)
    local = here("run", "--root", "here", "--json", cwd=folder)
    numbers = [json.loads(run.stdout.splitlines()[-1])["arms"] for run in (result, local)]
    assert numbers[0] == numbers[1]
    assert call("verify", "--root", s3_url, cwd=folder, environment=s3_environment).returncode == 0
    secret, store = s3_environment["AWS_SECRET_ACCESS_KEY"], open_store(s3_url)
    for entry in store.list(""):
        assert secret.encode() not in store.get(entry.key), entry.key
    assert secret not in result.stdout + result.stderr


def test_help_of_the_shipped_recipe_says_what_it_does_and_what_each_option_means(tmp_path, here):
    text = here("run", "--help", recipe=DIGITS, cwd=tmp_path).stdout
    assert "--guidance-weight" in text and "--discriminator-seeds" in text and "--root" in text
    overview = here("--help", recipe=DIGITS, cwd=tmp_path).stdout
    assert "Discriminator Guidance on handwritten digits" in overview
    assert all(command in overview for command in ("run", "plan", "status", "verify", "report"))

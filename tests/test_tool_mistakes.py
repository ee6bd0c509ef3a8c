"""`dgflow metrics` with what a command line can have wrong: one message each, before anything is made."""

import re
from pathlib import Path

import numpy as np
import pytest
from tool_command import ADM, dgflow, made, statistics, write_statistics

from dgflow.store.objects import StoreError

__all__ = ["dgflow", "made", "statistics"]


# What a command line can have wrong


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["metrics", "a.npz"], "REFERENCE"),
        (["metrics", "a.npz", "b.npz"], "--protocol"),
        (["metrics", "a.npz", "b.npz", "--protocol", "fid"], "'adm', 'edm', 'clean'"),
        (
            ["metrics", "a.npz", "b.npz", *ADM, "--metric", "ssim"],
            "fid, sfid, is, precision, recall, f1, kid, found ssim",
        ),
        (["metrics", "a.npz", "b.npz", *ADM, "--against", "nowhere.json"], "nowhere.json"),
        (["metrics", "a.npz", "b.npz", *ADM, "--wieghts", "x"], "--weights"),
        (["metrics", "a.npz", "b.npz", *ADM, "--workers", "0"], "--workers"),
        (["export", "a.npz"], "OUTPUT"),
        (["export", "a.npz", "b.npz", "--format", "jpg"], "'npz', 'png', 'parquet'"),
        (["metrisc"], "metrics"),
    ],
)
def test_a_command_line_that_cannot_be_understood_ends_with_status_2(dgflow, arguments, named, tmp_path):
    found = dgflow(*arguments)
    assert found.status == 2 and found.stdout == ""
    assert named in found.stderr and "Traceback" not in found.stderr
    assert list(tmp_path.iterdir()) == []


def _write_sources(folder: Path) -> None:
    images = np.zeros((3, 8, 8, 3), np.uint8)
    np.savez(folder / "images.npz", arr_0=images)
    np.savez(folder / "float.npz", arr_0=images / 255)
    np.savez(folder / "latents.npz", arr_0=np.zeros((3, 4, 8, 8), np.uint8))
    np.savez(folder / "empty.npz", arr_0=images[:0])
    np.savez(folder / "half.npz", mu=np.zeros(4))
    np.savez(folder / "other.npz", weights=np.zeros(4))
    write_statistics(folder / "four.npz", 0, 1)
    write_statistics(folder / "five.npz", 0, 1, features=5)
    (folder / "damaged.npz").write_bytes((folder / "images.npz").read_bytes()[:-40])
    (folder / "words.txt").write_text("words")
    (folder / "folder").mkdir()


@pytest.mark.parametrize(
    ("samples", "reference", "options", "named"),
    [
        ("nowhere.npz", "images.npz", [], ["nowhere.npz", "found no file", "correct the path"]),
        ("images.npz", "nowhere", [], ["at nowhere, found nothing", "give an .npz"]),
        ("float.npz", "images.npz", [], ["uint8", "arr_0 of float.npz", "float64", "save uint8"]),
        ("latents.npz", "images.npz", [], ["(rows, height, width, 1 or 3)", "(3, 4, 8, 8)"]),
        ("empty.npz", "images.npz", [], ["empty.npz", "(0, 8, 8, 3)"]),
        ("damaged.npz", "images.npz", [], ["damaged.npz", "truncated"]),
        ("other.npz", "images.npz", [], ["arr_0, samples", "['weights']"]),
        ("words.txt", "images.npz", [], ["words.txt", "another kind"]),
        ("folder", "images.npz", [], ["images, .parquet files or tars in folder"]),
        ("half.npz", "four.npz", [], ["mu and sigma together in half.npz"]),
        ("five.npz", "four.npz", [], ["four.npz", "5 features", "found 4"]),
        ("images.npz", "four.npz", [], ["four.npz", "2,048", "found 4"]),
        (
            "four.npz",
            "four.npz",
            ["--metric", "is"],
            ["is cannot be measured", "four.npz holds statistics and no images"],
        ),
        (
            "images.npz",
            "four.npz",
            ["--metric", "kid"],
            ["kid cannot be measured", "the reference holds statistics"],
        ),
        (
            "images.npz",
            "images.npz",
            ["--weights", "inception"],
            ["inception-2015-12-05", ".safetensors", "'inception'"],
        ),
        ("images.npz[0:2]", "images.npz", [], ["a step's samples", "ROOT/STEP[start:stop]"]),
        ("s3://key:topsecret@bucket/x.npz", "images.npz", [], ["credentials"]),
    ],
)
def test_what_cannot_be_measured_is_one_message_before_a_root_is_made(
    dgflow, tmp_path, samples, reference, options, named
):
    _write_sources(tmp_path)
    found = dgflow("metrics", samples, reference, *ADM, *options, "--root", "fresh")
    assert all(part in found.error for part in named), found.error
    assert "topsecret" not in found.stderr
    assert not (tmp_path / "fresh").exists()


def test_a_root_that_is_something_else_is_refused(dgflow, statistics, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.txt").write_text("meow")
    assert "expected a dgflow root" in dgflow("metrics", *statistics[:2], *ADM, "--root", "photos").error
    assert (
        "is a file and not a folder"
        in dgflow("metrics", *statistics[:2], *ADM, "--root", "photos/cat.txt").error
    )


def test_a_weight_file_that_is_not_there_is_named(dgflow, made):
    found = dgflow("metrics", made / "a.npz", made / "b.npz", *ADM, "--weights", "nowhere.pth")
    assert "expected a weight file at" in found.error and "nowhere.pth" in found.error


def test_weights_that_cannot_be_downloaded_say_where_to_put_them_by_hand_and_are_taken_from_there(
    dgflow, made, tmp_path, monkeypatch
):
    def fails(url: str, *_, **__) -> None:
        raise StoreError(f"could not download {url}: no network")

    monkeypatch.setattr("dgflow.weights.https.download", fails)
    command = ("metrics", made / "a.npz", made / "a.npz", *ADM, "--metric", "f1", "--root", "my root")
    found = dgflow(*command)
    assert "no network" in found.error and "--weights FILE" in found.error
    match = re.search(r"download that file elsewhere and copy it to (.*?), or", found.error)
    assert match
    place = Path(match[1])
    assert place.is_relative_to(tmp_path / "my root") and place.suffix == ".pth"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"<html>not the weights</html>")
    assert f"from {place.as_uri()}, found a web page" in dgflow(*command).error

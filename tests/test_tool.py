"""`dgflow metrics` and `dgflow export` as a user types them: what is printed where, exit status, and one
clear message for what went wrong.

Where features are computed, it is in the test's own process, but for the last tests, which start Ray.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
from inprocess import complete
from PIL import Image
from tool_command import ADM, NO_CLOUD, Called, dgflow, made, statistics

from dgflow.cli import open_root
from dgflow.images.sources import open_images
from dgflow.specs.step import Slice

__all__ = ["dgflow", "made", "statistics"]


# Statistics against statistics: no network, no Ray.


def test_statistics_against_statistics_give_the_closed_form_without_starting_ray(statistics, tmp_path):
    program = (
        "import sys; from dgflow.cli.tool import main\ntry: main()\n"
        "finally: print('ray loaded:', 'ray' in sys.modules, file=sys.stderr)"
    )
    x, y, _ = statistics
    found = subprocess.run(
        [sys.executable, "-c", program, "metrics", x, y, *ADM, "--json"],
        cwd=tmp_path,
        env=NO_CLOUD,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    assert found.stderr.splitlines()[-1] == "ray loaded: False"
    assert json.loads(found.stdout.splitlines()[-1])["values"] == {
        "fid": pytest.approx(4 * 1 + 4 * (1 - 2) ** 2)
    }
    assert (tmp_path / "runs" / "metrics" / "dgflow.json").exists()  # the root, where none is named


def test_a_published_reference_is_named_and_taken_from_where_a_person_put_it(dgflow, statistics, tmp_path):
    placed = tmp_path / "root" / "weights" / "fid-cifar10-32x32" / "cifar10-32x32.npz"
    assert (
        dgflow("metrics", statistics[0], statistics[1], *ADM, "--root", tmp_path / "root").status == 0
    )  # which makes the root
    placed.parent.mkdir(parents=True)
    placed.write_bytes(Path(statistics[2]).read_bytes())
    found = dgflow("metrics", statistics[0], "fid-cifar10-32x32", *ADM, "--root", tmp_path / "root", "--json")
    assert found.json["values"] == {"fid": pytest.approx(4 * 2**2)}


def test_nothing_but_the_table_and_the_json_is_on_standard_output(dgflow, statistics):
    found = dgflow("metrics", *statistics[:2], *ADM, "--json")
    heading, line, *_, last = found.stdout.splitlines()
    assert heading.split() == ["FID", "samples"] and set(line) == {"-"}
    assert last.startswith("{") and "\n{" not in found.stdout.removesuffix(f"\n{last}\n")
    assert "working" not in found.stdout


def test_the_json_on_the_last_line_is_the_file_of_the_result(dgflow, statistics, tmp_path):
    found = dgflow("metrics", *statistics[:2], *ADM, "--root", "root", "--json")
    (file,) = (tmp_path / "root").glob("measure-*/data/*.json")
    assert found.json == json.loads(file.read_text())


def test_metrics_that_statistics_cannot_give_are_left_out_and_named(dgflow, statistics):
    found = dgflow("metrics", *statistics[:2], *ADM, "--json")
    notes = " ".join(found.json["notes"])
    assert all(
        f"not measured: {name}, since" in notes for name in ("sFID", "IS", "precision", "recall", "F1")
    )
    assert all(note.split(":")[0] in found.stdout for note in found.json["notes"])


def test_the_environment_names_the_root(dgflow, statistics, tmp_path, monkeypatch):
    monkeypatch.setenv("DGFLOW_ROOT", "elsewhere")
    assert dgflow("metrics", *statistics[:2], *ADM).status == 0
    assert (tmp_path / "elsewhere" / "dgflow.json").exists() and not (tmp_path / "runs").exists()


# --against


@pytest.mark.parametrize("kept", ["the last line", "all that was printed"])
def test_against_prints_the_change(dgflow, statistics, tmp_path, kept):
    x, y, z = statistics
    before = dgflow("metrics", x, y, *ADM, "--json")
    (tmp_path / "before").write_text(
        before.stdout.splitlines()[-1] if kept == "the last line" else before.stdout
    )
    found = dgflow("metrics", z, y, *ADM, "--against", "before", "--json")
    assert found.status == 0, found.stderr
    rows = {line.split("  ")[0].strip(): line.split() for line in found.stdout.splitlines()[:6]}
    assert rows["this result"][2] == rows["against"][1] == "8.000"
    assert rows["change"][1] == "+0.000"
    assert "provenance" in found.json  # of this result alone


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (("--protocol", "edm"), "protocol: edm and adm"),
        ((*ADM, "--distances", "openai-float16"), "distances: "),
    ],
)
def test_against_a_result_that_was_measured_otherwise_is_refused_before_work_begins(
    dgflow, statistics, tmp_path, other, named
):
    (tmp_path / "before").write_text(dgflow("metrics", *statistics[:2], *ADM, "--json").stdout)
    found = dgflow("metrics", *statistics[:2], *other, "--against", "before", "--root", "fresh")
    assert "measured alike" in found.error and named in found.error
    assert not (tmp_path / "fresh").exists()


def test_against_a_result_with_another_number_of_samples_or_reference_is_refused_before_work_begins(
    dgflow, statistics, made, tmp_path
):
    x, y, z = statistics
    (tmp_path / "before").write_text(dgflow("metrics", x, y, *ADM, "--json").stdout)
    assert (
        "statistics_digest: " in dgflow("metrics", x, z, *ADM, "--against", "before", "--root", "fresh").error
    )
    images = dgflow("metrics", made / "a.npz", made / "b.npz", *ADM, "--against", "before", "--root", "fresh")
    assert "n: 6 and None" in images.error and "reference_n: 5 and None" in images.error
    assert not (tmp_path / "fresh").exists()


@pytest.mark.parametrize("content", [b"", b"\x00\xff", b"[]", b'{"values": {}}', b"table\nno json"])
def test_against_a_file_that_is_no_result_names_it(dgflow, statistics, tmp_path, content):
    (tmp_path / "before").write_bytes(content)
    assert "before: expected " in dgflow("metrics", *statistics[:2], *ADM, "--against", "before").error


# Images, in the features of a network with random weights


@pytest.fixture(scope="module")
def measured_root(made):
    return made / "root"


@pytest.fixture
def measure(dgflow, made, measured_root):
    """`dgflow metrics` with the random weights, in a root whose features the tests share."""

    def call(samples: object, reference: object, *options: object) -> Called:
        weights = ("--weights", made / "inception.safetensors", "--root", measured_root)
        return dgflow("metrics", samples, reference, *weights, *(options or ADM), "--json")

    return call


def step_with_rows(root: Path, rows: int) -> str:
    """The name of the step of features that has so many rows."""
    (found,) = [path.parts[-3] for path in root.glob(f"features-*/manifests/0-{rows}-*.json")]
    return found


def test_samples_that_were_exported_are_the_reference_again(measure, dgflow, made, tmp_path):
    assert dgflow("export", made / "a.npz", "again.npz").stdout == "6 images written to again.npz\n"
    found = measure(made / "a.npz", "again.npz", *ADM, "--metric", "fid")
    assert found.json["values"] == {"fid": pytest.approx(0, abs=1e-9)}
    assert any("the same images" in line for line in found.json["warnings"])
    assert "warning: samples and reference are the same images" in found.stdout


def test_the_statistics_of_a_step_of_features_are_a_reference_with_the_same_fid_as_its_images(
    measure, dgflow, made, measured_root
):
    images = measure(made / "a.npz", made / "b.npz", *ADM, "--metric", "fid")
    step = step_with_rows(measured_root, 5)
    exported = dgflow("export", measured_root / step, "b-statistics.npz")
    assert exported.stdout == "mu, sigma, mu_s, sigma_s of 5 samples written to b-statistics.npz\n"
    found = measure(made / "a.npz", "b-statistics.npz", *ADM, "--metric", "fid")
    assert found.json["values"]["fid"] == pytest.approx(images.json["values"]["fid"], rel=1e-10)
    assert (
        found.json["provenance"]["reference_digest"] is None and found.json["provenance"]["statistics_digest"]
    )


def test_exported_statistics_are_those_of_the_root_bit_for_bit(measure, dgflow, made, measured_root):
    measure(made / "a.npz", made / "b.npz", *ADM, "--metric", "fid")
    dgflow("export", measured_root / step_with_rows(measured_root, 5), "mine.npz")
    kept = [np.load(path) for path in measured_root.glob("statistics-*/data/*.npz")]
    (theirs,) = [arrays for arrays in kept if arrays["n"] == 5]
    with np.load("mine.npz") as mine:
        assert all(np.array_equal(mine[name], theirs[name]) for name in ("mu", "sigma", "mu_s", "sigma_s"))


def test_pictures_of_several_sizes_can_be_measured(measure, made, tmp_path):
    (tmp_path / "pictures").mkdir()
    with np.load(made / "a.npz") as arrays:
        for number, image in enumerate(arrays["arr_0"][:4]):
            Image.fromarray(image).resize((30 + number, 40)).save(tmp_path / "pictures" / f"{number}.jpg")
    found = measure("pictures", made / "b.npz", *ADM, "--metric", "precision")
    assert found.status == 0 and found.json["provenance"]["n"] == 4


def test_a_step_of_a_run_is_measured_with_its_seed_and_indices(measure, made, tmp_path):
    store = open_root(str(tmp_path / "run"))
    step = tiny.discriminator(
        tiny.write_images(tmp_path / "real.npz"), epochs=1
    )  # which reads the first 64 samples
    complete(step, store)
    assert isinstance(step.fake, Slice)
    fakes = step.fake.step.name
    found = measure(f"run/{fakes}[8:12]", made / "b.npz", *ADM, "--metric", "recall")
    assert found.status == 0, found.stderr
    it = found.json["provenance"]
    assert (it["seed"], it["seeding"], it["start"], it["stop"], it["n"]) == (1, "counter", 8, 12, 4)
    assert "seed 1, indices 8 to 11" in found.stdout


@pytest.mark.parametrize("format", ["npz", "png", "parquet"])
def test_every_format_of_an_export_holds_the_same_pixels(dgflow, made, tmp_path, format):
    out = "out.npz" if format == "npz" else "out"
    found = dgflow("export", made / "a.npz", out, "--format", format)
    assert (found.status, found.stdout, found.stderr) == (0, f"6 images written to {out}\n", "")
    assert np.array_equal(open_images(out).read(0, 6), np.load(made / "a.npz")["arr_0"])


def test_an_export_leaves_what_is_there_as_it_was(dgflow, made, measured_root, measure, tmp_path):
    (tmp_path / "out.npz").write_bytes(b"mine")
    assert (
        "found a file or folder, which is not overwritten"
        in dgflow("export", made / "a.npz", "out.npz").error
    )
    measure(made / "a.npz", made / "b.npz", *ADM, "--metric", "precision")
    features = measured_root / step_with_rows(measured_root, 5)
    assert "found a file or folder, which is not overwritten" in dgflow("export", features, "out.npz").error
    assert [path.name for path in tmp_path.iterdir()] == ["out.npz"] and (
        tmp_path / "out.npz"
    ).read_bytes() == b"mine"


def test_an_export_that_cannot_be_says_why(dgflow, made, measured_root, measure, tmp_path):
    measure(made / "a.npz", made / "b.npz", *ADM, "--metric", "precision")
    features = measured_root / step_with_rows(measured_root, 5)
    assert "found the root of a run" in dgflow("export", measured_root, "out.npz").error
    assert "expected --format npz for features" in dgflow("export", features, "out", "--format", "png").error
    assert "a name that ends in .npz" in dgflow("export", features, "out.txt").error
    assert "a name that ends in .npz" in dgflow("export", made / "a.npz", "out.txt").error
    assert "holds [0:9]" in dgflow("export", f"{features}[0:9]", "out.npz").error
    (tmp_path / "file").write_text("")
    assert (
        f"could not read or write {tmp_path / 'file'}"
        in dgflow("export", made / "a.npz", "file/out.npz").error
    )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


LABELS = {
    "large": (np.arange(10**11, 10**11 + 6), "labels from 100000000000 to 100000000005 are not classes"),
    "one-hot": (np.eye(6, dtype=np.float32), "the labels are one-hot"),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_that_no_metric_needs_do_not_stop_it_and_are_told(measure, made, tmp_path, kind):
    labels, note = LABELS[kind]
    labelled = tmp_path / "labelled.npz"
    np.savez(labelled, arr_0=np.load(made / "a.npz")["arr_0"], arr_1=labels)
    plain = measure(made / "a.npz", made / "b.npz", *ADM, "--metric", "precision")
    found = measure(labelled, made / "b.npz", *ADM, "--metric", "precision")
    assert found.json["values"] == plain.json["values"]
    assert any(note in line for line in found.json["notes"]) and note in found.stdout
    ignored = measure(labelled, made / "b.npz", *ADM, "--metric", "precision", "--ignore-labels")  # as a.npz
    assert ignored.json["values"] == plain.json["values"] and ignored.json["notes"] == plain.json["notes"]


def test_transparent_pictures_are_measured_and_exported_without_their_alpha_channel(measure, dgflow, made):
    pixels = np.load(made / "a.npz")["arr_0"]
    Path("rgba").mkdir()
    for number, image in enumerate(pixels):
        alpha = np.full((*image.shape[:2], 1), 255 - number % 2, np.uint8)
        Image.fromarray(np.concatenate([image, alpha], axis=2)).save(f"rgba/a{number}.png")
    for call in (measure("rgba", made / "b.npz"), dgflow("export", "rgba", "no.npz")):
        assert "a1.png" in call.error and "--drop-alpha" in call.error
    plain = measure(made / "a.npz", made / "b.npz", *ADM, "--metric", "precision")
    found = measure("rgba", made / "b.npz", *ADM, "--metric", "precision", "--drop-alpha")
    assert found.json["values"] == plain.json["values"]
    assert dgflow("export", "rgba", "out.npz", "--drop-alpha").status == 0
    assert np.array_equal(open_images("out.npz").read(0, 6), pixels)


# With Ray, in a process of its own


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_committed_and_the_same_command_does_only_what_is_missing(
    dgflow, made, tmp_path
):
    command = [
        "metrics",
        str(made / "a.npz"),
        str(made / "b.npz"),
        *ADM,
        "--metric",
        "precision",
        "--workers",
        "1",
        "--root",
        "root",
    ]
    command += ["--weights", str(made / "inception.safetensors")]
    with (tmp_path / "stdout").open("w") as stdout, (tmp_path / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "dgflow", *command],
            cwd=tmp_path,
            env=NO_CLOUD | {"XDG_CACHE_HOME": str(made / "cache")},
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            # A shell without job control has what it starts in the background ignore interrupts, these tests
            # and their children too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        deadline = time.monotonic() + 180
        while not (done := list((tmp_path / "root").glob("features-*/shards/*.json"))):
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "stderr").read_text()
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)  # to all of them, as a terminal does
        assert process.wait(timeout=60) == 130
    finally:
        if process.poll() is None:
            process.kill()
    errors = (tmp_path / "stderr").read_text()
    assert (tmp_path / "stdout").read_text() == "" and "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("error: interrupted; committed parts are kept")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in done}
    found = dgflow(*command, "--json")
    assert found.status == 0, found.stderr
    assert len(list((tmp_path / "root").glob("features-*/shards/*.json"))) == 2
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in done} == before

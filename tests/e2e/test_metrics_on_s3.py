"""`dgflow metrics` with its samples and its root in S3, and its driver killed midway."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from inprocess import complete
from parity import inception_recipe

from dgflow.engine.execute import result_of
from dgflow.metrics.result import read_result
from dgflow.networks.inception.module import InceptionV3Module
from dgflow.steps.judging.comparison import comparison
from dgflow.store.memory import MemoryStore
from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store
from dgflow.weights.tensors import save_weights

DEADLINE = 600.0  # seconds, the timeout of every wait
SHARD = re.compile(r"features-[0-9a-f]{12}/shards/.+\.json")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Returns a file of random weights by recipe."""
    shapes = {name: tuple(values.shape) for name, values in InceptionV3Module().state_dict().items()}
    file = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    file.write_bytes(save_weights(inception_recipe.weights(7, shapes)))
    return file


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Returns a folder with `a.npz` and `b.npz`, six and five images."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for name, count in (("a", 6), ("b", 5)):
        np.savez(
            folder / f"{name}.npz",
            arr_0=random.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2),
        )
    return folder


@pytest.fixture
def cloud(s3_url, tmp_path, monkeypatch):
    """Returns the URL of an empty folder in S3; this process and its children are clients of the server."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # of copies of the weights
    return s3_url


class Command:
    """Runs `python -m dgflow` with its outputs in files."""

    def __init__(self, folder: Path, name: str, *arguments: str) -> None:
        self.stdout, self.stderr = folder / f"{name}.stdout", folder / f"{name}.stderr"
        with self.stdout.open("w") as stdout, self.stderr.open("w") as stderr:
            command = [sys.executable, "-m", "dgflow", *arguments]
            self.process = subprocess.Popen(
                command, cwd=folder, stdout=stdout, stderr=stderr, start_new_session=True
            )

    def said(self) -> str:
        return self.stdout.read_text() + self.stderr.read_text()


def shards(root: ObjectStore) -> dict[str, bytes]:
    """Returns the receipts of shards of features: key to content, which contains the time of its creation."""
    keys = [entry.key for entry in root.list("") if SHARD.fullmatch(entry.key)]
    return dict(zip(keys, root.get_many(keys), strict=True))


@pytest.mark.slow
def test_a_comparison_in_s3_whose_driver_was_killed_goes_on_to_the_same_numbers_and_writes_no_secret(
    tmp_path, cloud, images, weights, own_ray
):
    bucket = open_store(f"{cloud}/images")
    for name in ("a.npz", "b.npz"):
        bucket.put(name, (images / name).read_bytes())
    root = open_store(f"{cloud}/metrics")
    command = [
        "metrics",
        f"{bucket.url}/a.npz",
        f"{bucket.url}/b.npz",
        "--protocol",
        "adm",
        "--metric",
        "precision",
        "--metric",
        "kid",
    ]
    command += ["--weights", str(weights), "--root", root.url, "--workers", "1", "--json"]

    killed = Command(tmp_path, "killed", *command)
    try:
        deadline = time.monotonic() + DEADLINE
        while not (before := shards(root)):
            assert killed.process.poll() is None and time.monotonic() < deadline, killed.said()
            time.sleep(0.1)
    finally:
        os.kill(killed.process.pid, signal.SIGKILL)
        killed.process.wait()
    assert killed.stdout.read_text() == ""

    again = Command(tmp_path, "again", *command)
    assert again.process.wait(timeout=DEADLINE) == 0, again.said()
    after = shards(root)
    assert len(after) == 2 and before.items() <= after.items()  # not made again: the identical receipts

    found = read_result(again.stdout.read_text().splitlines()[-1], "again")
    target = comparison(
        str(images / "a.npz"),
        str(images / "b.npz"),
        "adm",
        weights=str(weights),
        metrics=["precision", "kid"],
    )
    store = MemoryStore("local")
    complete(target, store)
    local = read_result(result_of(target, store), "local")
    assert found.values == {name: pytest.approx(value, rel=1e-4) for name, value in local.values.items()}
    assert found.provenance == local.provenance  # digests cover the content, wherever it is stored

    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    assert secret not in killed.said() + again.said() + json.dumps(command)
    keys = [entry.key for entry in root.list("") if not entry.key.endswith(".safetensors")]
    assert keys and all(secret.encode() not in data for data in root.get_many(keys))


def test_an_export_to_s3_is_read_from_there_and_never_overwritten(tmp_path, cloud, images):
    out = f"{cloud}/exports/a.npz"
    first = Command(tmp_path, "first", "export", str(images / "a.npz"), out)
    assert first.process.wait(timeout=DEADLINE) == 0, first.said()
    assert first.stdout.read_text() == f"6 images written to {out}\n"
    second = Command(tmp_path, "second", "export", str(images / "b.npz"), out)
    assert second.process.wait(timeout=DEADLINE) == 1
    assert "not overwritten" in second.stderr.read_text() and "Traceback" not in second.said()
    back = Command(tmp_path, "back", "export", out, "back.npz")
    assert back.process.wait(timeout=DEADLINE) == 0, back.said()
    assert np.array_equal(np.load(tmp_path / "back.npz")["arr_0"], np.load(images / "a.npz")["arr_0"])
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in first.said() + second.said() + back.said()

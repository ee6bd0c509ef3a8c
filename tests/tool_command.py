"""The command `dgflow` in a process of the tests, and small images and statistics for it."""

import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from inprocess import execute_here
from parity import inception_recipe

from dgflow.cli import tool
from dgflow.networks.inception.module import InceptionV3Module
from dgflow.weights.tensors import save_weights

NO_CLOUD = {
    name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DGFLOW_", "RAY_"))
}

ADM = ("--protocol", "adm")


class Called(NamedTuple):
    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict:
        """The object on the last line of standard output."""
        return json.loads(self.stdout.splitlines()[-1])

    @property
    def error(self) -> str:
        """The only message of a failed command; asserts that there is no traceback and no result."""
        assert self.status == 1, self.stderr
        assert "Traceback" not in self.stderr and self.stdout == ""
        (line,) = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        return line


@pytest.fixture
def dgflow(monkeypatch, capsys, made, tmp_path):
    """The command in this process and in a folder of its own; features are computed without Ray."""
    monkeypatch.delenv("DGFLOW_ROOT", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(made / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dgflow.cli.tool.execute", execute_here)

    def call(*arguments: object) -> Called:
        monkeypatch.setattr(sys, "argv", ["dgflow", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            tool.main()
        return Called(int(ended.value.code or 0), *capsys.readouterr())

    return call


def write_statistics(path: Path, mean: float, variance: float, features: int = 4) -> Path:
    np.savez(path, mu=np.full(features, mean), sigma=variance * np.eye(features))
    return path


def write_images(path: Path, count: int, seed: int) -> Path:
    """Blocks of colours: noise alone looks all the same to the network."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (count, 4, 4, 3)).repeat(8, 1).repeat(8, 2)
    np.savez(path, arr_0=(blocks // 2 + random.integers(0, 128, blocks.shape)).astype(np.uint8))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with `inception.safetensors` (random weights by recipe) and images `a.npz` and `b.npz`."""
    folder = tmp_path_factory.mktemp("tool")
    shapes = {name: tuple(values.shape) for name, values in InceptionV3Module().state_dict().items()}
    (folder / "inception.safetensors").write_bytes(save_weights(inception_recipe.weights(7, shapes)))
    write_images(folder / "a.npz", 6, seed=1)
    write_images(folder / "b.npz", 5, seed=2)
    return folder


@pytest.fixture
def statistics(tmp_path):
    """Three files of statistics of four features: N(0, 1), N(1, 4) and N(2, 1)."""
    return [
        str(write_statistics(tmp_path / f"{name}.npz", mean, variance))
        for name, mean, variance in (("x", 0, 1), ("y", 1, 4), ("z", 2, 1))
    ]

"""The chapter on one's own model: its files as they stand, on tiny weights and images, from plan to table."""

import importlib
import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from inprocess import complete
from PIL import Image

from dgflow.diffusion.times import tau_from_sigma
from dgflow.report.summary import summarise, table
from dgflow.store.memory import MemoryStore

CHAPTER = (Path(__file__).resolve().parents[1] / "docs" / "own-model.md").read_text()
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", CHAPTER, re.DOTALL))
ROWS = dict(re.findall(r"\| ([^|]+) \| `([^|]+)` \|\n", CHAPTER))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The chapter's files, weights for them, and 2 x 60 images; the current folder, and first on the path."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in FILES:
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
    model = importlib.import_module("my_model")
    torch.manual_seed(0)
    torch.save(model.Denoiser(16, 3, 2).state_dict(), "denoiser.pt")
    torch.save(model.Features(16, 3, 2).state_dict(), "features.pt")
    random = np.random.default_rng(0)
    for label, kind in enumerate(("cats", "dogs")):
        Path("data/images", kind).mkdir(parents=True)
        for number in range(60):
            Image.fromarray(random.integers(80 * label, 80 * label + 160, (16, 16, 3), np.uint8)).save(
                f"data/images/{kind}/{number}.png"
            )
    yield tmp_path
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


def test_the_denoiser_is_twenty_lines():
    denoiser = FILES["my_model.py"].partition("class Features")[0].splitlines()
    assert (
        sorted(FILES) == ["my_model.py", "own_recipe.py", "test_own_recipe.py"]
        and len([line for line in denoiser if line.strip()]) <= 20
    )


def test_the_recipe_runs_from_the_files_to_a_table_of_finite_numbers(folder):
    target = importlib.import_module("own_recipe").workflow(
        real=48, samples=32, epochs=1, image_size=16, shard_size=16
    )
    store = MemoryStore("own-model")
    complete(target, store)
    summary = summarise(target, store)
    assert summary.result is not None and set(summary.result["arms"]) == {"plain", "guided"}
    for arm in summary.result["arms"].values():
        assert all(math.isfinite(arm[metric]["mean"]) for metric in ("fid", "is", "precision", "recall"))
    fid = [arm["fid"]["mean"] for arm in summary.result["arms"].values()]
    assert fid[0] != fid[1]
    assert "guided" in table(summary)


def test_planning_it_loads_neither_the_module_nor_torch(folder):
    program = (
        "import sys; sys.argv = ['own_recipe.py', 'plan', '--root', 'root']\n"
        "import runpy\n"
        "try: runpy.run_path('own_recipe.py', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print(sorted({'torch', 'ray', 'my_model'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "denoiser.pt" in found.stdout and found.stdout.splitlines()[-1] == "[]"


def test_what_predicts_something_else_becomes_a_denoiser_by_the_lines_of_the_table():
    """The score, noise and v of Gaussian images, of mean 0.3 and deviation 0.7, are known exactly."""
    x = torch.linspace(-3, 3, 12, dtype=torch.float64).reshape(3, 1, 2, 2)
    sigma = torch.tensor([0.05, 1.0, 20.0], dtype=torch.float64)
    s = sigma.view(-1, 1, 1, 1)
    score = (0.3 - x) / (0.49 + s**2)
    clean, noise, alpha = x + s**2 * score, -s * score, (1 + s**2).rsqrt()
    exact = {"the score": score, "the noise": noise, "v": alpha * noise - alpha * s * clean}
    for name, prediction in exact.items():
        ((predicts, lines),) = ((row, lines) for row, lines in ROWS.items() if row.startswith(name))
        asked = []
        network = SimpleNamespace(
            net=lambda *arguments, prediction=prediction, asked=asked: asked.extend(arguments) or prediction
        )
        body = lines.replace("`", "").replace("<br>", "\n    ")
        forward: dict[str, Any] = {"time": tau_from_sigma}
        exec(f"def forward(self, x, sigma, s):\n    {body}", forward)
        torch.testing.assert_close(forward["forward"](network, x, sigma, s), clean, rtol=1e-12, atol=1e-12)
        preserving = "variance-preserving" in predicts
        torch.testing.assert_close(asked, [alpha * x, tau_from_sigma(sigma)] if preserving else [x, sigma])

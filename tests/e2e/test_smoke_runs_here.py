"""Shipped systems from the command line at toy size, to a table of finite numbers, without Ray and in this
process; `test_smoke_runs.py` runs them as a user does.

Inception gets smaller images here; most of such a run would otherwise be its convolutions at 299 pixels, with
random weights, on the output of random networks.
"""

import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch.nn.functional as F
from e2e.smoke_runs import LONG, RUNS, WITHOUT_RAY, check_run
from inprocess import execute_here
from steps.shipped import WORKFLOWS
from torch import Tensor

from dgflow.networks.inception.module import SPATIAL_CHANNELS, InceptionFeatures, InceptionV3Module

SIDE = 75  # pixels: the minimum that all its layers accept
SPATIAL = 17  # side of the maps of `spatial` at 299 pixels


@pytest.fixture
def small_inception(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces Inception by the same network on a sixteenth of the pixels, with features of the same
    shapes."""
    whole = InceptionV3Module._features

    def features(self: InceptionV3Module, x: Tensor) -> InceptionFeatures:
        found = whole(self, F.interpolate(x, SIDE))
        side = round((found.spatial.shape[1] / SPATIAL_CHANNELS) ** 0.5)
        maps = found.spatial.unflatten(1, (side, side, SPATIAL_CHANNELS)).permute(0, 3, 1, 2)
        larger = F.interpolate(maps, SPATIAL).permute(0, 2, 3, 1)
        return found._replace(spatial=larger.flatten(1))

    monkeypatch.setattr(InceptionV3Module, "_features", features)


@pytest.mark.usefixtures("small_inception")
@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in RUNS]
)
def test_a_recipe_runs_the_whole_way_at_toy_size_without_ray(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dgflow.cli.recipe.execute", execute_here)
    monkeypatch.delenv("DGFLOW_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(WORKFLOWS))  # as for a script that is run
    root = tmp_path / "runs" / f"{recipe}-smoke"
    try:
        for options in WITHOUT_RAY[recipe]:
            monkeypatch.setattr(sys, "argv", [recipe, "run", "--smoke", *options, "--json"])
            with pytest.raises(SystemExit) as ended:
                runpy.run_path(str(WORKFLOWS / f"{recipe}.py"), run_name="__main__")
            run = capsys.readouterr()
            assert not ended.value.code, run.err[-3000:]
            check_run(recipe, run.out, root, options)
    finally:
        shutil.rmtree(root, ignore_errors=True)  # 200 to 350 MB

"""The command line of a recipe in a process of the tests, as `python RECIPE.py ...` has one of its own."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import tiny


@pytest.fixture
def here(monkeypatch, capsys):
    """Calls a recipe in the folder `cwd`, in an environment that names neither a cloud nor a root."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "DGFLOW_")):
            monkeypatch.delenv(name)

    def call(
        *arguments: object, recipe: Path = Path(tiny.__file__), cwd: Path
    ) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", [str(recipe), *map(str, arguments)])
        monkeypatch.syspath_prepend(recipe.parent)
        monkeypatch.chdir(cwd)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(recipe), run_name="__main__")
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, int(ended.value.code or 0), printed.out, printed.err)

    return call

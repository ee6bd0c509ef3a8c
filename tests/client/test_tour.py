"""`docs/tour.ipynb`: its cells run on toy roots of its two recipes, and its outputs name no machine."""

import runpy
import sys
from pathlib import Path

import nbformat
import pytest
from client.conftest import execute_here
from nbclient import NotebookClient
from steps.shipped import WORKFLOWS

from dgflow.cli import recipe

TOUR = Path(__file__).resolve().parents[2] / "docs" / "tour.ipynb"


def test_the_committed_outputs_are_whole_and_name_no_folder_of_a_machine():
    notebook = nbformat.read(TOUR, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [output.output_type for cell in cells for output in cell.outputs]
    assert "error" not in kinds and kinds.count("execute_result") > 12
    assert cells[-1].outputs[0].data["text/plain"] == "True"
    text = TOUR.read_text()
    assert not any(folder in text for folder in ("/home/", "/tmp/", "/root/", "/work/")) and len(text) < 1e6


@pytest.mark.slow
def test_every_cell_runs(folder, monkeypatch):
    monkeypatch.setattr(recipe, "execute", execute_here)
    monkeypatch.chdir(folder)
    options = ["--samples", "200", "--epochs", "2", "--reals", "2000", "--fakes", "2000", "--seeds", "101"]
    monkeypatch.setattr(sys, "argv", ["plane.py", "run", "--root", "runs/plane", *options])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(WORKFLOWS / "plane.py"), run_name="__main__")
    assert not ended.value.code
    notebook = nbformat.read(TOUR, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    assert notebook.cells[-1].outputs[0].data["text/plain"] == "True"

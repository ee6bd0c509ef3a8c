"""What the docs say about published files is what the catalogue and the readers know, and they name every
public class."""

import ast
from pathlib import Path
from typing import get_args

import pytest

import dgflow
from dgflow.steps.pretrained import Format
from dgflow.weights.catalogue import CATALOGUE

MODELS = (Path(__file__).resolve().parents[1] / "docs" / "models.md").read_text()
METRICS = (Path(__file__).resolve().parents[1] / "docs" / "metrics.md").read_text()


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_published_file_is_listed_with_its_licence(name):
    file = CATALOGUE[name]
    (line,) = (line for line in MODELS.splitlines() if line.startswith(f"| `{name}` |"))
    assert file.file_name in line and file.licence in line
    assert file.published_fid is None or f"{file.published_fid:.2f}" in line


@pytest.mark.parametrize("format", get_args(Format))
def test_every_format_is_listed_among_those_that_never_met_an_original(format):
    assert f"| `{format}` |" in MODELS


@pytest.mark.parametrize(
    "name",
    [name for name in dgflow.__all__ if name[0].isupper() and not name.startswith(("Train", "Import"))],
)
def test_every_public_class_is_named(name):
    assert name in MODELS or name in METRICS


WORKFLOWS = sorted((Path(__file__).resolve().parents[1] / "workflows").glob("*.py"))
RECIPES = (Path(__file__).resolve().parents[1] / "docs" / "recipes.md").read_text()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_recipe_can_be_read_at_a_glance(path):
    lines = path.read_text().splitlines()
    assert max(map(len, lines)) <= 110
    assert all(
        line.split()[0] != "from" or "dgflow" not in line for line in lines if line
    )  # the public API only


@pytest.mark.parametrize(
    "path", [path for path in WORKFLOWS if path.stem != "digits"], ids=lambda path: path.stem
)
def test_a_recipe_of_a_published_system_says_what_was_published_and_where_its_files_are_from(path):
    text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split())
    assert f"`{path.name}`" in RECIPES
    for word in (
        "Published",
        "to be reached",
        "not measured here",
        "eeds",
        "Weights:",
        "Data:",
        "Budget of the paper",
    ):
        assert word in text, word
    named = [file for file in CATALOGUE.values() if f'"{file.name}"' in path.read_text() and file.network]
    assert named or path.stem == "cifar10_edm"  # whose names are put together
    for file in named:
        licences = (
            ("no licence stated",)
            if file.licence == "none stated"
            else (file.licence, file.licence.partition(" (")[0])
        )
        assert any(licence in text for licence in licences) or file.name.startswith("inception"), file.name

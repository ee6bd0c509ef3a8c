"""What the docs say about published files is what the catalogue and the readers know, and they name every public class."""

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


@pytest.mark.parametrize("name", [name for name in dgflow.__all__ if name[0].isupper() and not name.startswith(("Train", "Import"))])
def test_every_public_class_is_named(name):
    assert name in MODELS or name in METRICS

"""The docs agree with the catalogue, the readers and the recipes, and whatever they name exists."""

import ast
import pkgutil
import re
from pathlib import Path

import pytest
from test_layers import LAYERS

import dgflow
from dgflow.networks.catalogue import CATALOGUE
from dgflow.networks.families import FAMILIES
from dgflow.specs.network import GENERAL_FORMATS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
MODELS, METRICS, RECIPES, WORKBENCH = (
    (ROOT / "docs" / f"{page}.md").read_text() for page in ("models", "metrics", "recipes", "workbench")
)
WORKFLOWS = sorted((ROOT / "workflows").glob("*.py"))
OF_OUR_OWN = {
    "cifar10_edm_ensemble",
    "afhq_edm_translate",
    "cifar10_edm_further",
    "digits",
    "digits_ensemble",
    "digits_further",
    "digits_translate",
    "digits_selection",
    "digits_workbench",
    "cifar10_edm_workbench",
    "plane",
    "plane_workbench",
}  # recipes of no published system


EACH_PAGE = pytest.mark.parametrize("text", [pytest.param(page.read_text(), id=page.name) for page in PAGES])


def resolves(name: str) -> bool:
    """True for the dotted name of a module, or of an attribute of one."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@EACH_PAGE
def test_every_dotted_name_on_a_page_exists(text):
    names = {name.split("dgflow.")[-1] for name in re.findall(r"(?<![\w./-])dgflow\.[\w.]*\w", text)}
    names |= {name[3:] for name in re.findall(r"(?<![\w./-])dg\.[\w.]*\w", text)}
    assert not [name for name in sorted(names) if not resolves(f"dgflow.{name}")]


@EACH_PAGE
def test_every_path_on_a_page_exists(text):
    """Paths are relative to the repository's root, or file names alone; files that a page asks its reader to
    write are left out."""
    paths = set(re.findall(r"(?<![\w./:-])(?:dgflow|tests|docs|workflows|benchmarks)/[\w./-]*\w", text))
    paths |= set(re.findall(r"`((?:[\w-]+/)*[\w-]+\.py)", text))
    paths -= {"workflows/RECIPE.py", *re.findall(r"^# (\w+\.py)$", text, flags=re.MULTILINE)}
    names = {
        path.name for folder in ("dgflow", "tests", "workflows") for path in (ROOT / folder).rglob("*.py")
    }
    assert not [path for path in sorted(paths) if not (ROOT / path).exists() and path not in names]


@EACH_PAGE
def test_every_make_target_on_a_page_exists(text):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    commands = re.findall(r"(?:^|`)make ((?:[a-z-]+ ?)+)(?=[`\n]| +#)", text, flags=re.MULTILINE)
    assert {target for command in commands for target in command.split()} <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_of_a_page_leads_somewhere(page):
    links = {link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()) if "://" not in link}
    assert not [link for link in sorted(links) if not (page.parent / link).exists()]


def test_the_rooms_of_the_architecture_are_the_layers_from_top_to_bottom():
    rooms = re.findall(
        r"^\| `dgflow/(\w+)/`", (ROOT / "docs" / "architecture.md").read_text(), flags=re.MULTILINE
    )
    assert rooms == [layer for layer in LAYERS if (ROOT / "dgflow" / layer).is_dir()]


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_published_file_is_listed_with_its_licence(name):
    file = CATALOGUE[name]
    (line,) = (line for line in MODELS.splitlines() if line.startswith(f"| `{name}` |"))
    assert file.file_name in line and file.licence in line
    assert file.published_fid is None or f"{file.published_fid:.2f}" in line


@pytest.mark.parametrize(
    "format", sorted({*GENERAL_FORMATS, *(name for family in FAMILIES for name in family.formats)})
)
def test_every_format_is_listed_among_those_that_never_met_an_original(format):
    assert f"| `{format}` |" in MODELS


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in vars(dgflow)["__all__"]
        if name[0].isupper() and not name.startswith(("Train", "Import"))
    ],
)
def test_every_public_class_is_named(name):
    assert any(name in page for page in (MODELS, METRICS, WORKBENCH))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_recipe_can_be_read_at_a_glance(path):
    lines = path.read_text().splitlines()
    assert max(map(len, lines)) <= 110
    assert all(
        line.split()[0] != "from" or "dgflow" not in line for line in lines if line
    )  # the public API only


@pytest.mark.parametrize(
    "path", [path for path in WORKFLOWS if path.stem not in OF_OUR_OWN], ids=lambda path: path.stem
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


API = "\n".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))


@pytest.mark.parametrize("name", [name for name in vars(dgflow)["__all__"] if not name.startswith("__")])
def test_every_public_name_is_on_an_api_page_and_has_a_docstring(name):
    assert re.search(rf"^::: dgflow\.(\w+\.)*{name}$", API, flags=re.MULTILINE)
    assert getattr(dgflow, name).__doc__

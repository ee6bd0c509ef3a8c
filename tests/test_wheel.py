"""The wheel works where the source tree is not importable, and declares every package that it imports."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

import dgflow
from dgflow.extras import EXTRAS

ROOT = Path(__file__).resolve().parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir"]
COMES_WITH = {
    "aiohttp": "s3fs",
    "botocore": "s3fs",
    "fsspec": "s3fs",
    "mlflow": "mlflow-skinny",
    "sklearn": "mlxtend",
    "markupsafe": "jinja2",
    "pydantic_core": "pydantic",
}
"""Packages that are imported and come with a declared one, in the version that it needs."""
PROGRAM = """
import sys
import dgflow as dg
from dgflow.cli.tool import main
from dgflow.engine.plan import plan
from dgflow.report.page import render
from dgflow.store.open import open_store

assert dg.__file__.startswith(sys.prefix), dg.__file__
sys.path.append(sys.argv[1])
import digits
target, store = digits.workflow(), open_store(sys.argv[2])
print(len(plan(target, store)), len(render(target, store)))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the wheel that `pip wheel .` builds from a copy of the source tree, with the installed build
    tools."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "dgflow", folder / "source/dgflow", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    build = [*PIP, "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    subprocess.run([*build, "--wheel-dir", folder, folder / "source"], check=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_every_module_template_and_licence_and_nothing_else(wheel):
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    source = (path for path in (ROOT / "dgflow").rglob("*") if path.suffix not in ("", ".pyc"))
    assert files == {str(path.relative_to(ROOT)) for path in source if path.is_file()}
    (licence,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("/LICENSE"))
    assert zipfile.ZipFile(wheel).read(licence) == (ROOT / "LICENSE").read_bytes()


def test_an_installed_wheel_plans_a_recipe_and_renders_its_page(wheel, tmp_path):
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python, packages = environment / "bin/python", sysconfig.get_path("purelib", vars={"base": environment})
    subprocess.run(
        [*PIP, "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True
    )
    # A path in a .pth file brings the dependencies; .pth files there, so the source tree's, are not read.
    (Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(*command: object) -> str:
        arguments = [str(part) for part in command]
        return subprocess.run(
            arguments, cwd=tmp_path, env=clean, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    steps, page = run(python, "-c", PROGRAM, ROOT / "workflows", tmp_path / "root").split()
    assert int(steps) > 10 and int(page) > 1_000
    assert "metrics" in run(environment / "bin/dgflow", "--help")


def test_the_citation_names_the_version_and_the_licence_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["version"], citation["license"]) == (dgflow.__version__, project["license"])
    assert project["urls"]["Paper"] == citation["references"][0]["url"]


def test_the_extra_that_a_message_names_brings_the_package():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    def brought(name: str) -> set[str]:
        nested = [re.fullmatch(r"dgflow\[(.*)\]", line) for line in extras[name]]
        inner = [brought(each) for found in nested if found for each in found[1].split(",")]
        return {re.split(r"[^\w-]", line)[0].lower() for line in extras[name]}.union(*inner)

    distributions = packages_distributions()
    for package, names in EXTRAS.items():
        named = {COMES_WITH.get(package, ""), *distributions.get(package, [package])}
        for name in names:
            assert brought(name) & {text.lower() for text in named}, (package, name)


def test_every_package_that_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    listed = [project["dependencies"], *(lines for name, lines in extras.items() if name != "dev")]
    declared = {re.split(r"[^\w-]", text)[0].lower() for lines in listed for text in lines}
    imported = {
        name.split(".")[0]
        for path in (ROOT / "dgflow").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in _modules(node)
    }
    distributions = packages_distributions()
    missing = {
        name
        for name in imported - set(sys.stdlib_module_names) - {"dgflow"}
        if not declared
        & {text.lower() for text in (COMES_WITH.get(name, ""), *distributions.get(name, [name]))}
    }
    assert not missing


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []

"""Imports point downwards only, Ray stays in its room, and building or planning a recipe loads neither torch
nor ray."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "dgflow"
# Top to bottom; a layer may import itself and what is below it.
LAYERS = [
    "__main__",
    "cli",
    "report",
    "testing",
    "estimate",
    "engine",
    "steps",
    "runtime",
    "networks",
    "diffusion",
    "specs",
    "metrics",
    "weights",
    "images",
    "store",
    "_version",
]
ALLOWED = {("runtime/environment.py", "dgflow")}


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in _imports(path):
        assert name != "dgflow", "the root package gathers the public names and imports all rooms"
        if name.startswith("dgflow."):
            other = name.split(".")[1]
            assert LAYERS.index(other) >= LAYERS.index(own), f"{own} imports {name} from above"
        elif name.split(".")[0] == "ray":
            assert own == "runtime", f"{own} imports ray"
        elif name.split(".")[0] == "torch":
            assert own not in ("images", "store"), f"{own} imports torch"


def test_building_and_planning_a_recipe_loads_neither_torch_nor_ray(tmp_path):
    program = (
        "import sys; sys.path.insert(0, 'workflows'); import digits;"
        "from dgflow.engine.plan import plan; from dgflow.store.objects import open_store;"
        f"plans = plan(digits.workflow(), open_store({str(tmp_path / 'root')!r})); assert len(plans) > 10;"
        "print(sorted({'torch', 'ray', 'matplotlib', 's3fs', 'jinja2'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"

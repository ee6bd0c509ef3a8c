"""Imports point downwards only and form no circle, Ray stays in its room, importing dgflow is cheap, and
building or planning a recipe loads neither torch nor ray."""

import ast
import graphlib
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import dgflow

PACKAGE = Path(__file__).resolve().parents[1] / "dgflow"
# Top to bottom; a layer may import itself and what is below it.
LAYERS = [
    "__main__",
    "cli",
    "publish",
    "track",
    "client",
    "report",
    "testing",
    "steps",
    "estimate",
    "engine",  # knows no kind of step
    "runtime",
    "diffusers",
    "networks",
    "diffusion",
    "specs",
    "metrics",
    "weights",
    "images",
    "files",
    "store",
    "options",
    "extras",
    "_version",
]


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
            assert own not in ("images", "files", "store"), f"{own} imports torch"


def _internal_imports() -> dict[str, set[str]]:
    """The files of the package that each file imports: at its top, in a function or for types alone."""
    modules = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        named = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                named |= inner & modules.keys() or {node.module}
        graph[module] = (named & modules.keys()) - {module}
    return graph


def test_no_files_import_each_other_in_a_circle():
    graph = _internal_imports()
    assert len(graph) > 150 and graph["dgflow.cli.recipe"] >= {"dgflow.cli.root", "dgflow.engine.execute"}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(reversed(error.args[1]))}")


def test_building_and_planning_a_recipe_loads_neither_torch_nor_ray(tmp_path):
    program = (
        "import sys; sys.path.insert(0, 'workflows'); import digits;"
        "from dgflow.engine.plan import plan; from dgflow.store.open import open_store;"
        f"plans = plan(digits.workflow(), open_store({str(tmp_path / 'root')!r})); assert len(plans) > 10;"
        "print(sorted({'torch', 'ray', 'matplotlib', 's3fs', 'jinja2'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_importing_dgflow_loads_no_other_package_and_takes_less_than_half_a_second():
    program = (
        "import sys; before = set(sys.modules); import dgflow;"
        "names = {name.split('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(names - set(sys.stdlib_module_names)))"
    )

    def seconds() -> float:
        """CPU of one process that imports dgflow."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = subprocess.run(
            [sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert found.stdout.strip() == "['dgflow']"
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.5


def test_every_public_name_is_had_by_the_line_of_the_stub():
    assert {"Evaluate", "main", "options", "__version__"} <= set(vars(dgflow)["__all__"]) <= set(dir(dgflow))
    for name in vars(dgflow)["__all__"]:
        value = getattr(dgflow, name)
        assert getattr(value, "__module__", "dgflow").startswith("dgflow"), name
    with pytest.raises(AttributeError, match="'dgflow' has no attribute 'Evaluat'"):
        dgflow.Evaluat  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]

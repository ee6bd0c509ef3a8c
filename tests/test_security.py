"""docs/security.md, where code can be held to it: nothing is unpickled, no secret is written anywhere, Ray
stays on loopback."""

import ast
import io
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny
from listening import LOOPBACK
from PIL import Image
from seaweed import Server

from dgflow.store.open import open_store

TESTS = Path(__file__).resolve().parent
DGFLOW = TESTS.parent / "dgflow"
RUNS_CODE = {
    "eval",
    "exec",
    "__import__",
    "os.system",
    "os.popen",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "pickle._Unpickler",
    "torch.load",
    "torch.jit.load",
    "torch.package.PackageImporter",
    "torch.hub.load",
    "pandas.read_pickle",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "importlib.import_module",
    "runpy.run_path",
    "runpy.run_module",
}
RUN_CODE_WHOLE = {"cloudpickle", "ray.cloudpickle", "dill", "joblib", "marshal", "shelve", "_pickle"}
"""Modules that have no other use."""
ALLOWED = {
    # The reader of published pickles: a subclass of Unpickler whose globals are records, never the things
    # that are named.
    ("files/inert_pickle.py", "pickle.Unpickler"),
    # Behind it, and with weights_only=True.
    ("weights/torch_file.py", "torch.load"),
    # Own code that a recipe names, as an import statement there would.
    ("networks/own/spec.py", "importlib.import_module"),
    # dgflow's own modules, by the names in its stub.
    ("__init__.py", "importlib.import_module"),
    ("steps/kinds.py", "importlib.import_module"),
    # Between a driver and the workers that it started, through sockets and a folder that are theirs alone.
    ("runtime/pool/process_fleet.py", "cloudpickle"),
    ("runtime/pool/process_fleet.py", "cloudpickle.dumps"),
    ("runtime/pool/process_worker.py", "cloudpickle"),
    ("runtime/pool/process_worker.py", "cloudpickle.dumps"),
    ("runtime/pool/process_worker.py", "cloudpickle.loads"),
}


def used(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Every dotted name that a module uses, by its full name, whatever it was imported as."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                known[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield f"{node.module}.{alias.name}", node
    for node in ast.walk(tree):
        parts, inner = [], node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name) and isinstance(node, ast.Attribute | ast.Name):
            yield ".".join([known.get(inner.id, inner.id), *reversed(parts)]), node


def test_nothing_in_dgflow_unpickles_or_runs_what_it_reads() -> None:
    found = set()
    for file in sorted(DGFLOW.rglob("*.py")):
        for name, _ in used(ast.parse(file.read_text())):
            if name in RUNS_CODE or any(f"{name}.".startswith(f"{module}.") for module in RUN_CODE_WHOLE):
                found.add((str(file.relative_to(DGFLOW)), name))
    assert found == ALLOWED


def test_the_reader_of_pickles_makes_nothing_that_a_pickle_names() -> None:
    tree = ast.parse((DGFLOW / "files" / "inert_pickle.py").read_text())
    readers = {
        base: node
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for base in map(ast.unparse, node.bases)
    }
    (body,) = [
        part
        for part in readers["pickle.Unpickler"].body
        if isinstance(part, ast.FunctionDef) and part.name == "find_class"
    ]
    assert any(isinstance(node, ast.Raise) for node in ast.walk(body))
    assert not {"getattr", "super", "import_module", "__import__"} & {
        node.id for node in ast.walk(body) if isinstance(node, ast.Name)
    }


def test_no_array_file_is_read_with_the_objects_in_it() -> None:
    loads = 0
    for file in sorted(DGFLOW.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                words = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert words.get("allow_pickle", "False") == "False", f"{file}:{node.lineno}"
                loads += ast.unparse(node.func) == "np.load"
    assert loads


def test_torch_reads_weights_alone() -> None:
    tree = ast.parse((DGFLOW / "weights" / "torch_file.py").read_text())
    (call,) = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert {word.arg: ast.unparse(word.value) for word in call.keywords}["weights_only"] == "True"


# Everything secret that a run can meet, as nobody else writes it.
KEY_ID, KEY = "AKIADISTINCTIVE00001", "distinctive-secret-key-00002"
TOKEN = "d15c" * 16
ELSEWHERE = {
    "HF_TOKEN": "hf_distinctive00003",
    "DATABASE_PASSWORD": "distinctive-password-00004",
    "WANDB_API_KEY": "distinctive-00005",
}
IN_ENDPOINT, WRONG = "distinctive-password-00006", "distinctive-wrong-key-00007"
SECRETS = (KEY_ID, KEY, TOKEN, *ELSEWHERE.values(), IN_ENDPOINT, WRONG)

WHOLE = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import inprocess, tiny
from dgflow.cli import open_root
from dgflow.report import page, summary
target, store = tiny.workflow(sys.argv[3], samples=16, epochs=1), open_root(sys.argv[2])
inprocess.complete(target, store)
store.put("report.html", page.render(target, store).encode())
print(summary.table(summary.summarise(target, store)))
"""
BROKEN = """
import dgflow as dg
def workflow() -> dg.TrainScore:
    images = dg.ImportImages(source="pictures", num_classes=2, image_size=8, channels=3)
    network = dg.SongUNet(model_channels=8, channel_mult=(1, 1), num_blocks=1)
    return dg.TrainScore(real=images[:2], network=network, epochs=1, batch_size=2, held_out=0)
if __name__ == "__main__":
    dg.main(workflow)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, own_ray: None) -> Iterator[SimpleNamespace]:
    """A run that succeeds, one whose worker fails and three that cannot reach their root, all with secrets
    around them: what they leave."""
    folder = tmp_path_factory.mktemp("secrets")
    server = Server(folder)
    server.environment |= {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": KEY}
    server.start()
    ray_folder = Path(
        tempfile.mkdtemp(prefix="dgx-", dir="/tmp")
    )  # short, as the path of a Unix socket has to be
    own = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DGFLOW_", "RAY_"))
    }
    environment = own | server.environment | ELSEWHERE | {"RAY_AUTH_TOKEN": TOKEN, "RAY_AUTH_MODE": "token"}
    environment |= {"RAY_TMPDIR": str(ray_folder), "OMP_NUM_THREADS": "1", "HOME": str(folder)}
    root = environment.pop("BUCKET_URL")
    tiny.write_images(folder / "images.npz")
    pictures(folder / "pictures")
    (folder / "whole.py").write_text(WHOLE)
    (folder / "broken.py").write_text(BROKEN)

    def run(*command: str, **other: str) -> tuple[int, str]:
        arguments = [sys.executable, *command]
        done = subprocess.run(
            arguments, cwd=folder, env=environment | other, capture_output=True, text=True, timeout=400
        )
        return done.returncode, done.stdout + done.stderr

    endpoint = environment["AWS_ENDPOINT_URL"]
    try:
        ended = {
            "whole": run("whole.py", str(TESTS), f"{root}/whole", "images.npz"),
            "broken": run("broken.py", "run", "--root", f"{root}/broken", "--workers", "1"),
            "status": run("broken.py", "status", "--root", f"{root}/broken"),
            "denied": run("broken.py", "run", "--root", f"{root}/denied", AWS_SECRET_ACCESS_KEY=WRONG),
            "lost": run("broken.py", "run", "--root", "s3://no-such-bucket/x"),
            "endpoint": run(
                "broken.py",
                "run",
                "--root",
                f"{root}/x",
                AWS_ENDPOINT_URL=endpoint.replace("//", f"//somebody:{IN_ENDPOINT}@", 1),
            ),
        }
        with pytest.MonkeyPatch.context() as patch:
            for name, value in server.environment.items():
                patch.setenv(name, value)
            written = {}
            for part in ("whole", "broken"):
                store = open_store(f"{root}/{part}")
                written |= {f"{part}/{entry.key}": store.get(entry.key) for entry in store.list("")}
            connected = open_store(f"{root}/whole")
            connected.get("dgflow.json")
        logs = {
            str(path.relative_to(ray_folder)): path.read_bytes()
            for path in ray_folder.rglob("*")
            if path.is_file()
        }
        yield SimpleNamespace(ended=ended, written=written, logs=logs, store=connected)
    finally:
        server.kill()
        shutil.rmtree(ray_folder, ignore_errors=True)


def pictures(folder: Path) -> None:
    """Two classes of one picture each, the second broken: found by a worker, and told in the root."""
    for number in range(2):
        (folder / str(number)).mkdir(parents=True)
        Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(folder / str(number) / "picture.png")
    whole = (folder / "1" / "picture.png").read_bytes()
    (folder / "1" / "picture.png").write_bytes(
        whole[:41] + bytes(len(whole) - 41)
    )  # the header says the same, the pixels are gone


def holds_a_secret(data: bytes) -> list[str]:
    return [secret for secret in SECRETS if secret.encode() in data]


def test_the_runs_ended_as_they_should(runs: SimpleNamespace) -> None:
    assert {name: status for name, (status, _) in runs.ended.items()} == {
        "whole": 0, "broken": 1, "status": 1, "denied": 1, "lost": 1, "endpoint": 1
    }, runs.ended  # fmt: skip
    said = {name: text for name, (_, text) in runs.ended.items()}
    assert (
        "picture.png" in said["broken"] and "access denied" in said["denied"] and "no bucket" in said["lost"]
    )
    assert "without credentials" in said["endpoint"]
    assert {"whole/report.html", "whole/dgflow.json"} <= set(runs.written)
    assert any("/shards/" in key for key in runs.written)
    assert any("/attempts/" in key and b"picture.png" in data for key, data in runs.written.items())
    assert any(name.endswith(".log") for name in runs.logs)


def test_no_object_of_a_root_holds_a_secret(runs: SimpleNamespace) -> None:
    for key, data in runs.written.items():
        assert not holds_a_secret(data), key
        if key.endswith(".parquet"):  # what is compressed in there
            file = pq.ParquetFile(io.BytesIO(data))
            told = repr((file.schema_arrow.metadata, file.metadata.metadata, file.schema_arrow.names))
            assert not holds_a_secret(told.encode()), key


def test_no_output_and_no_log_of_ray_holds_a_secret(runs: SimpleNamespace) -> None:
    for name, (_, text) in runs.ended.items():
        assert not holds_a_secret(text.encode()), name
    for name, data in runs.logs.items():
        assert not holds_a_secret(data), name


def test_an_open_store_shows_no_secret(runs: SimpleNamespace) -> None:
    for text in (repr(runs.store), str(vars(runs.store)), runs.store.url):
        assert not holds_a_secret(text.encode())
    assert not holds_a_secret(pickle.dumps(runs.store))


LISTENING = """
import os, sys
sys.path.insert(0, sys.argv[1])
from dgflow.runtime.cluster import connect
from dgflow.store.open import open_store
from listening import family, listening
connect(open_store(sys.argv[2]))
print("listening", *sorted(listening(family(os.getpid()))))
"""


def test_without_a_cluster_ray_listens_on_loopback_alone(tmp_path: Path, own_ray: None) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DGFLOW_", "RAY_"))
    }
    command = [sys.executable, "-c", LISTENING, str(TESTS), str(tmp_path / "root")]
    done = subprocess.run(
        command, env=environment | {"HOME": str(tmp_path)}, capture_output=True, text=True, timeout=200
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("listening ")] or [done.stderr]
    assert set(line.split()[1:]) <= LOOPBACK, line

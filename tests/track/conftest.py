"""A finished digits-like root on a disk, for tests of what trackers receive."""

import json
import os
import shutil
from pathlib import Path

import pytest
from report.fake_root import fill, recipe, write_source

from dgflow.store.open import open_store
from dgflow.store.runs import Asked, RunRecord, record_key
from dgflow.track.tracker import Updater

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before its import: no test goes beyond this machine
MARK = b'{"dgflow_root": 1}'
ASKED = Asked(
    recipe="digits", options={"samples": 200, "weight": 2.0}, command=("digits.py", "run"), commit="0de1ed1"
)


def run_record(run: str = "20260101-000000-abcdef", outcome: str | None = "done") -> RunRecord:
    """The record of a run without requested steps, for tests that do not need them."""
    return RunRecord(
        id=run,
        asked=ASKED,
        target="evaluate-0",
        steps=(),
        version="0.1.0",
        host="h",
        pid=1,
        started=0.0,
        outcome=outcome,
    )


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("track")
    target = recipe(source=write_source(folder / "source" / "digits.npz"))
    store = open_store(str(folder / "digits"))
    store.create("dgflow.json", MARK)
    fill(target, store)
    store.put(record_key("20260101-000000-abcdef"), run_record().model_dump_json().encode())
    return folder / "digits"


@pytest.fixture
def root(made, tmp_path) -> Path:
    """A copy of the root, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "runs" / "digits"))


def receipts(root: Path, kind: str, folder: str) -> dict[str, dict[int, dict]]:
    """The receipts of a kind as their files have them: step -> part -> receipt."""
    found: dict[str, dict[int, dict]] = {}
    for path in sorted(root.glob(f"{kind}-*/{folder}/*.json")):
        receipt = json.loads(path.read_text())
        found.setdefault(path.parts[-3], {})[receipt["number"]] = receipt
    return found


def tell(tracker, root: Path) -> int:
    """Tell all of a root; the number of items that were written."""
    import dgflow

    count = sum(len(written.items) for written in Updater(tracker).update(dgflow.open(root)))
    tracker.close()
    return count

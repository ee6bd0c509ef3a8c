"""MLflow in a database of SQLite, read back by its own client."""

import shutil
import socket
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image
from track.conftest import receipts, tell

import dgflow
from dgflow.track.content import Value, tracked
from dgflow.track.to_mlflow import MLflow

pytestmark = pytest.mark.slow  # MLflow makes its tables by 50 migrations


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A database with MLflow's tables and nothing in it."""
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def uri(template, tmp_path, monkeypatch):
    """The database of a test. Artifacts lie in the folder that the test runs in."""
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{shutil.copy(template, tmp_path / 'mlflow.db')}"


def contents(uri: str) -> dict[str, dict]:
    """The content of the experiment `digits`, by run name."""
    client: Any = MlflowClient(tracking_uri=uri)
    found: dict[str, dict] = {}
    for run in client.search_runs([client.get_experiment_by_name("digits").experiment_id]):
        own = run.info.run_id
        assert run.info.run_name not in found
        found[run.info.run_name] = {
            "status": run.info.status,
            "params": run.data.params,
            "artifacts": sorted(file.path for file in _files(client, own)),
            "parent": run.data.tags.get("mlflow.parentRunId"),
            "points": sorted(
                (name, point.step, point.value, point.timestamp)
                for name in run.data.metrics
                for point in client.get_metric_history(own, name)
            ),
        }
    return found


def _files(client: MlflowClient, run: str, path: str | None = None):
    for file in client.list_artifacts(run, path):
        yield from _files(client, run, file.path) if file.is_dir else [file]


def test_metrics_settings_and_pictures_are_those_of_the_root(made, uri):
    tell(MLflow(uri), made)
    found = contents(uri)
    for run in tracked(dgflow.open(made)):
        values = [item for item in run.items if isinstance(item, Value)]
        assert found[run.label]["points"] == sorted(
            (item.name, item.step, item.value, round(1000 * item.time)) for item in values
        )
        assert found[run.label]["params"] == {name: str(value) for name, value in run.configuration.items()}
        assert found[run.label]["status"] == "FINISHED"
    step, epochs = next(iter(receipts(made, "train-score", "epochs").items()))
    losses = [point[2] for point in found[f"{step} seed 0"]["points"] if point[0] == "training/held_out_loss"]
    assert sorted(losses) == sorted(receipt["metrics"]["held_out_loss"] for receipt in epochs.values())
    (table,) = [name for name in found if name.startswith("evaluate-") and "/" not in name]
    assert found[table]["artifacts"] == ["tables/arms.md"] and found[f"{table}/guided"]["parent"]
    assert found[f"{table}/guided"]["artifacts"] == ["samples.png"]


def test_the_picture_is_of_the_committed_pixels(made, uri):
    tell(MLflow(uri), made)
    client: Any = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs(
        [client.get_experiment_by_name("digits").experiment_id], "tags.`dgflow.kind` = 'import-images'"
    )
    picture = Image.open(client.download_artifacts(run.info.run_id, "samples.png"))
    first = dgflow.open(made).samples(run.data.tags["dgflow.step"])[0].images[0, :, :, 0]
    assert (np.asarray(picture.convert("L"))[:16, :16] == first).all()


def test_a_repetition_adds_nothing(made, uri):
    assert tell(MLflow(uri), made) > 500
    before = contents(uri)
    assert tell(MLflow(uri), made) == 0
    assert contents(uri) == before


@pytest.mark.parametrize("call", ["create_run", "log_batch", "log_artifact", "set_tag"])
def test_ended_before_or_behind_any_request_it_is_told_once_in_the_end(made, uri, monkeypatch, call):
    whole, calls = getattr(MlflowClient, call), []

    def ends(self, *arguments, **named):
        calls.append(call)
        if len(calls) == 3:  # before the third request, and behind the fifth
            raise KeyboardInterrupt
        done = whole(self, *arguments, **named)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return done

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, call, ends)
        patched.setattr(MLflow, "close", lambda self: None)  # as when it is killed
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                tell(MLflow(uri), made)
    tell(MLflow(uri), made)
    found = contents(uri)
    runs = list(tracked(dgflow.open(made)))
    assert found.keys() == {run.label for run in runs}
    for run in runs:
        values = sorted((item.name, item.step) for item in run.items if isinstance(item, Value))
        assert [point[:2] for point in found[run.label]["points"]] == values
        assert found[run.label]["status"] == "FINISHED"
        assert found[run.label]["params"].keys() == run.configuration.keys()
        assert len(found[run.label]["artifacts"]) == len(
            [item for item in run.items if item.name == "samples" or item.name.startswith("tables/")]
        )
    assert tell(MLflow(uri), made) == 0


def test_a_server_that_is_not_there_is_one_message(made, free_port, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = f"http://127.0.0.1:{free_port}"
    with pytest.raises(ValueError, match=f"could not write .* to {uri}: .*the same command continues"):
        tell(MLflow(uri), made)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return own.getsockname()[1]


def test_credentials_of_a_uri_are_not_shown():
    server = MLflow("https://ada:secret@mlflow.example/path")
    assert server.where == server.look == "https://mlflow.example/path"

"""TensorBoard, read back by its own reader."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.summary.writer.record_writer import RecordWriter
from track.conftest import receipts, tell

import dgflow
from dgflow.track.content import Value, tracked
from dgflow.track.to_tensorboard import TensorBoard

KEEP_ALL = {"scalars": 0, "images": 0, "tensors": 0}


def accumulated(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance=KEEP_ALL)
    found.Reload()
    return found


def folder_of(logdir: Path, group: str, kind: str) -> Path:
    return next(iter(sorted((logdir / group).glob(f"{kind}-*"))))


def records(logdir: Path) -> list[tuple[str, str, int]]:
    """Every record of every file that can be read: folder, tag and step, sorted."""
    return sorted(
        (str(path.parent.relative_to(logdir)), value.tag, event.step)
        for path in logdir.rglob("events.out.tfevents.*")
        for event in LegacyEventFileLoader(str(path)).Load()
        for value in event.summary.value
    )


@pytest.fixture(scope="module")
def logdir(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("logdir")
    tell(TensorBoard(folder), made)
    return folder


def test_curves_are_the_numbers_of_the_receipts_at_the_time_of_their_commit(made, logdir):
    step, epochs = next(iter(receipts(made, "train-score", "epochs").items()))
    found = accumulated(logdir / "digits" / f"{step} seed 0")
    for metric in ("train_loss", "held_out_loss"):
        curve = found.Scalars(f"training/{metric}")
        assert [point.step for point in curve] == list(range(1, 25))
        assert [point.value for point in curve] == [
            float(np.float32(epochs[epoch]["metrics"][metric])) for epoch in range(1, 25)
        ]
        assert [point.wall_time for point in curve] == [epochs[epoch]["created"] for epoch in range(1, 25)]


def test_every_value_of_every_run_is_there_once(made, logdir):
    for run in tracked(dgflow.open(made)):
        folder = logdir / "digits" / (run.name if run.parent else run.label)
        found = accumulated(folder)
        read = {
            (tag, point.step): point.value for tag in found.Tags()["scalars"] for point in found.Scalars(tag)
        }
        values = {item.key: float(np.float32(item.value)) for item in run.items if isinstance(item, Value)}
        assert read == values
        assert sum(len(found.Scalars(tag)) for tag in found.Tags()["scalars"]) == len(values)


def test_samples_are_a_picture_of_the_committed_pixels(made, logdir):
    folder = folder_of(logdir, "digits", "generate")
    (image,) = accumulated(folder).Images("samples")
    grid = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)).convert("L"))
    assert grid.shape == (image.height, image.width) == (8 * 17 - 1, 8 * 17 - 1)
    first = dgflow.open(made).samples(folder.name.partition(" ")[0])[0].images[0, :, :, 0]
    assert (grid[:16, :16] == first).all()


def test_settings_are_a_text_and_columns_to_compare_runs_by(made, logdir):
    folder = folder_of(logdir, "digits", "train-discriminator")
    found = accumulated(folder)
    fields = json.loads((made / folder.name.partition(" ")[0] / "step.json").read_text())["document"][
        "fields"
    ]
    (text,) = found.Tensors("configuration")
    assert f"| learning_rate | {fields['learning_rate']} |" in text.tensor_proto.string_val[0].decode()
    data = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    parsed: Any = plugin_data_pb2
    settings = parsed.HParamsPluginData.FromString(data).session_start_info.hparams
    assert settings["learning_rate"].number_value == fields["learning_rate"] > 0
    assert settings["network.type"].string_value == "ADMEncoder" and "root" not in settings


def test_a_repetition_writes_nothing(made, logdir, tmp_path):
    copy = Path(shutil.copytree(logdir, tmp_path / "logdir"))
    before = sorted(copy.rglob("*"))
    assert tell(TensorBoard(copy), made) == 0
    assert sorted(copy.rglob("*")) == before


@pytest.mark.parametrize("at", [1, 300])
def test_ended_within_any_record_it_is_told_once_in_the_end(made, logdir, tmp_path, monkeypatch, at):
    """The `at`-th record is cut off on the disk, as a process that is killed leaves it."""
    writes = []

    def cut(self, data):
        writes.append(data)
        if len(writes) == at:
            scratch = io.BytesIO()
            whole(RecordWriter(scratch), data)
            self._writer.write(scratch.getvalue()[: len(scratch.getvalue()) // 2])
            raise KeyboardInterrupt
        whole(self, data)

    whole = RecordWriter.write
    with monkeypatch.context() as patched:
        patched.setattr(RecordWriter, "write", cut)
        with pytest.raises(KeyboardInterrupt):
            tell(TensorBoard(tmp_path), made)
    assert len(records(tmp_path)) < len(records(logdir))
    tell(TensorBoard(tmp_path), made)
    assert records(tmp_path) == records(logdir)
    assert tell(TensorBoard(tmp_path), made) == 0


def test_what_was_committed_since_is_added_and_nothing_else(root, logdir, tmp_path):
    step = next(iter(receipts(root, "train-score", "epochs")))
    hidden = {}
    for path in sorted(root.glob(f"{step}/epochs/*"))[10:]:
        hidden[path] = path.rename(tmp_path / path.name)
    tracker = TensorBoard(tmp_path / "logdir")
    tell(tracker, root)
    for path, aside in hidden.items():
        aside.rename(path)
    assert tell(tracker, root) == 14 * 4  # epochs with two losses, seconds and workers each
    assert records(tmp_path / "logdir") == records(logdir)


def test_two_roots_of_one_name_stay_apart(made, root, tmp_path):
    first, second = (tell(TensorBoard(tmp_path / "logdir"), each) for each in (made, root))
    assert first == second > 0
    assert tell(TensorBoard(tmp_path / "logdir"), made) == 0
    groups = sorted(path.name for path in (tmp_path / "logdir").iterdir())
    assert groups[0] == "digits" and groups[1].startswith("digits-") and len(groups) == 2


def test_the_root_is_not_written(root, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    tell(TensorBoard(tmp_path / "logdir"), root)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before

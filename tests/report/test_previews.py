"""Previews: a worker within the first shard of a step has written its first samples, which equal the rows
that it commits later; nothing depends on them."""

import io
import json
import logging
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from uuid import uuid4

import numpy as np
import pytest
from inprocess import complete
from PIL import Image
from rich.console import Console
from steps.toy_networks import SCORES, SD, pretrained
from store.aging import DAY, AgingStore

import dgflow as dg
from dgflow.cli import tool
from dgflow.cli.guard import guarded
from dgflow.cli.preview import print_previews
from dgflow.engine.gc import collect
from dgflow.engine.plan import plan
from dgflow.engine.preview import left, of_columns
from dgflow.engine.removal import doomed, remove
from dgflow.engine.root import Root
from dgflow.engine.shard_work import shard_work
from dgflow.report import blocks
from dgflow.report.page import render
from dgflow.report.previews import preview_of
from dgflow.report.seen import of_plan
from dgflow.specs import trajectory
from dgflow.specs.step import Slice
from dgflow.steps.decode import Decode
from dgflow.steps.sampling import Sampling
from dgflow.store.memory import MemoryStore
from dgflow.store.objects import ObjectStore, StoreDenied
from dgflow.store.open import open_store
from dgflow.store.runs import Asked, Beat, RunRecord, RunStep, beat_key, goal, ranges, record_key
from dgflow.store.step_store import StepStore


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Slice:
    """12 samples of 8 x 8 pixels in shards of 12, by batches of 4."""
    score = pretrained(tmp_path_factory.mktemp("network"), "SongUNet", **SCORES["SongUNet"]).weights()
    return dg.Generate(score=score, sampler=dg.Heun(steps=2), seed=3, shard_size=12, batch_size=4)[:12]


def ready(target: Slice, store: ObjectStore) -> StepStore:
    """Returns a root with the weights, and the samples' step in it."""
    assert isinstance(target.step, dg.Generate)
    complete(target.step.score.step, store)
    return Root(store).step_store(target.step)


def work(target: Slice, store: ObjectStore, first: int | None = 0):
    """Returns the function that a worker runs."""
    bound = plan(target, store)[-1].bound
    assert bound is not None
    Root(store).step_store(target.step).declare(target.step.document())
    return shard_work(target.step, Root(store).step_store(target.step), bound, first)


@pytest.fixture
def stopped(target, monkeypatch) -> Iterator[tuple[ObjectStore, threading.Event, threading.Thread]]:
    """Yields a worker that stops before the second batch of the first shard, and the gate that lets it
    continue."""
    reached, gate, made = threading.Event(), threading.Event(), Sampling._batch

    def gated(self, loaded, draws, start, stop):
        if start == 4:
            reached.set()
            assert gate.wait(60)
        return made(self, loaded, draws, start, stop)

    monkeypatch.setattr(Sampling, "_batch", gated)
    store = MemoryStore(uuid4().hex)
    ready(target, store)
    thread = threading.Thread(target=work(target, store), args=(0,), daemon=True)
    thread.start()
    assert reached.wait(60)
    yield store, gate, thread
    gate.set()
    thread.join()


def rows(target: Slice, store: ObjectStore) -> np.ndarray:
    (receipt,) = Root(store).step_store(target.step).receipts(list(plan(target, store)[-1].done.values()))
    return Root(store).step_store(target.step).read_shard(receipt)["image"]


def test_within_the_first_shard_the_preview_holds_the_pixels_that_are_committed_later(target, stopped):
    store, gate, thread = stopped
    step = of_plan(plan(target, store)[-1], store)
    early = preview_of(step)
    assert early is not None and not step.done
    assert early.caption == "indices 0 to 3, not committed yet"
    gate.set()
    thread.join()
    committed = rows(target, store)
    np.testing.assert_array_equal(early.images, np.broadcast_to(committed[:4], early.images.shape))
    late = preview_of(of_plan(plan(target, store)[-1], store))
    assert late is not None and late.caption == "indices 0 to 11"
    np.testing.assert_array_equal(late.images, committed)


def test_the_bits_of_a_shard_do_not_depend_on_it(target, tmp_path):
    found = []
    for name, first in (("with", 0), ("without", None)):
        store = open_store(str(tmp_path / name))
        ready(target, store)
        work(target, store, first)(0)
        (receipt,) = Root(store).step_store(target.step).receipts(list(plan(target, store)[-1].done.values()))
        found.append(receipt)
        steps = Root(store).step_store(target.step)
        assert (left(steps) is None) == (first is None)
        path = trajectory.left(steps, receipt.inputs)
        assert (path is None) == (first is None)
        if path is not None:  # the frames of two steps, and the sample as committed
            assert (path.index, len(path.levels)) == (0, 2)
            expected = rows(target, store)[0]
            np.testing.assert_array_equal(path.frames[-1], np.broadcast_to(expected, path.frames[-1].shape))
    assert (found[0].sha256, found[0].rows_sha256) == (found[1].sha256, found[1].rows_sha256)


def test_a_preview_that_cannot_be_written_is_told_and_the_shard_is_made(target, caplog, monkeypatch):
    store = MemoryStore(uuid4().hex)
    ready(target, store)
    put = MemoryStore.put

    def refusing(self, key, data):
        if key.endswith("preview.png"):
            raise OSError("no space left on device")
        put(self, key, data)

    monkeypatch.setattr(MemoryStore, "put", refusing)
    with caplog.at_level(logging.WARNING):
        work(target, store)(0)
    assert len(rows(target, store)) == 12
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == f"could not write the preview of {target.step.name}: no space left on device"


def test_a_shard_of_one_batch_leaves_none_as_it_is_committed_at_once(target):
    store, whole = MemoryStore(uuid4().hex), target.step.model_copy(update={"batch_size": 12})[:12]
    steps = ready(whole, store)
    work(whole, store)(0)
    assert left(steps) is None and len(rows(whole, store)) == 12


def test_latents_and_what_is_decoded_from_them_leave_them_too(tmp_path):
    vae = pretrained(tmp_path, "vae", network=SD, channels=3, image_size=32)
    score = pretrained(tmp_path, "DiT", **SCORES["DiT"])
    latents = dg.Generate(score=score.weights(), sampler=dg.Heun(steps=2), shard_size=8, batch_size=4)
    decoded = Decode(latents=latents[:8], vae=vae.weights(), batch_size=2, shard_size=8)
    store = MemoryStore(uuid4().hex)
    for source in (score, vae):
        complete(source, store)
    for part, of, batch in ((latents[:8], "latents", 4), (decoded[:8], "images", 2)):
        work(part, store)(0)
        preview = left(Root(store).step_store(part.step))
        assert preview is not None
        assert (preview.of, len(preview.images)) == (of, batch)
        complete(part, store)
    bounds = [plan(part, store)[-1].bound for part in (latents[:8], decoded[:8])]
    own, images = (
        trajectory.left(Root(store).step_store(step), bound.digests, latents=step is latents)
        for step, bound in zip((latents, decoded), bounds, strict=True)
        if bound is not None
    )
    assert own is not None and images is not None
    assert own.levels == images.levels and own.frames.shape[1:] == (4, 8, 8)
    (receipt,) = Root(store).step_store(latents).receipts(list(plan(latents[:8], store)[-1].done.values()))
    np.testing.assert_array_equal(
        own.frames[-1], Root(store).step_store(latents).read_shard(receipt)["latent"][0]
    )
    committed = rows(decoded[:8], store)[0].astype(int)
    assert abs(images.frames[-1] - committed).max() <= 1  # decoded in another batch
    np.testing.assert_array_equal(preview.images, rows(decoded[:8], store)[:2])


def test_of_latents_three_channels_are_shown_and_named_as_such():
    latents = np.random.default_rng(0).normal(size=(70, 4, 8, 8)).astype(np.float16)
    latents[:, 3] = 1e4  # not shown, and does not affect brightness
    shown = of_columns({"index": np.arange(70), "latent": latents}, "", committed=True)
    assert shown is not None and shown.images.shape == (64, 8, 8, 3)
    assert "channels 1 to 3 of latents" in shown.caption
    order = latents[:64, :3].transpose(0, 2, 3, 1).astype(np.float32).ravel().argsort()
    assert (np.diff(shown.images.ravel()[order].astype(int)) >= 0).all()
    assert (np.percentile(shown.images, (1, 99)) == (0, 255)).all()


def test_one_of_earlier_inputs_is_not_shown(target, stopped):
    store, *_ = stopped
    step = of_plan(plan(target, store)[-1], store)
    assert preview_of(step) is not None
    assert preview_of(replace(step, inputs="0" * 64)) is None
    assert preview_of(replace(step, waiting=True)) is None


def test_one_that_is_damaged_is_told_and_left_out(target, stopped, caplog):
    store, *_ = stopped
    step = of_plan(plan(target, store)[-1], store)
    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")
    for damage in (b"torn", png.getvalue()):
        store.put(f"{step.name}/attempts/preview.png", damage)
        assert preview_of(step) is None
        assert f"could not read the preview of {step.name}" in caplog.records.pop().getMessage()


def at_work(target: Slice, store: ObjectStore) -> None:
    """Writes the record and heartbeat of a driver that runs this target."""
    steps = [
        RunStep(
            name=each.step.name,
            title=each.step.title,
            kind=each.step.kind,
            folder=each.folder,
            unit=each.unit,
            wanted=ranges(each.wanted),
        )
        for each in plan(target, store)
    ]
    record = RunRecord(
        id="20260101-000000-aaaaaa",
        asked=Asked(command=("x.py",)),
        target=target.step.name,
        steps=tuple(steps),
        version="1",
        host="node-7",
        pid=1,
        process=None,
        started=0.0,
    )
    assert record.goal == goal(target.step.name, ((0, 1),))
    beat = Beat(step=target.step.name, title=target.step.title, number=2, of=2, wanted=1, unit="shards")
    store.put(record_key(record.id), record.model_dump_json().encode())
    store.put(beat_key(record.id), beat.model_dump_json().encode())


def test_the_page_shows_them_while_the_run_is_at_work_and_has_none_of_it_at_the_end(target, stopped):
    store, gate, thread = stopped
    idle = render(target, store)
    assert "Not complete" in idle and 'http-equiv="refresh"' not in idle
    at_work(target, store)
    page = render(target, store)
    assert 'http-equiv="refresh"' in page and "At work: node-7, process 1: step 2 of 2" in page
    assert "indices 0 to 3, not committed yet" in page and "Not complete" not in page
    assert len(re.findall("<img", page)) == 1
    gate.set()
    thread.join()
    complete(target, store)
    final = render(target, store)
    assert not re.search('"refresh"|not committed yet|At work', final)
    assert len(re.findall("<img", final)) == 1 and "indices 0 to 11" in final  # the recipe ends with samples


def test_status_preview_writes_the_file_and_names_it(target, tmp_path, capsys):
    store = open_store(str(tmp_path / "root"))
    store.put("dgflow.json", json.dumps({"dgflow_root": 1}).encode())
    complete(target, store)
    at_work(target, store)
    command = ["status", str(tmp_path / "root"), "--preview", "--json"]
    assert guarded(lambda: tool.app(args=command, standalone_mode=False)) == 0
    out = capsys.readouterr().out
    (preview,) = json.loads(out.splitlines()[-1])["previews"]
    assert preview["file"] == str(tmp_path / "root" / target.step.name / "attempts/preview.png")
    assert f"{target.step.title}: indices 0 to 11\n  {preview['file']}\n" in out
    canvas = np.asarray(Image.open(preview["file"]).convert("RGB"))
    images = rows(target, store)
    np.testing.assert_array_equal(canvas[:8, 9:17], np.broadcast_to(images[1], (8, 8, 3)))
    np.testing.assert_array_equal(canvas[9:17, :8], np.broadcast_to(images[8], (8, 8, 3)))


def test_a_root_that_can_only_be_read_still_shows_them(target, stopped, capsys, monkeypatch):
    store, gate, thread = stopped
    gate.set()
    thread.join()

    def denied(self, key, data):
        raise StoreDenied("may not be written")

    monkeypatch.setattr(MemoryStore, "put", denied)
    (told,) = print_previews([of_plan(plan(target, store)[-1], store)])
    assert told["file"] is None and told["samples"] == 12
    assert "not written as a file: may not be written" in capsys.readouterr().out


def test_gc_removes_them_a_week_after_samples_are_committed(target):
    store = AgingStore(MemoryStore(uuid4().hex))
    steps = ready(target, store)
    key = f"{steps.name}/attempts/preview.png"
    steps.declare(target.step.document())
    store.put(key, b"png")
    store.clock += 8 * DAY
    assert collect(store, delete=True, tell=lambda _: None).number == 0  # nothing is committed yet
    work(target, store)(0)
    store.times[key] = store.clock
    assert collect(store, delete=True, tell=lambda _: None).number == 0
    store.clock += 8 * DAY
    collect(store, delete=True, tell=lambda _: None)
    assert store.size(key) is None and len(rows(target, store)) == 12
    (path,) = [entry.key for entry in store.list(steps.name) if "/attempts/path-" in entry.key]
    remove(store, doomed(store, steps.name))  # the path of a sample is kept as long as its step
    assert store.size(path) is None and not list(store.list(steps.name))


def test_a_terminal_shows_two_pixels_a_character_in_their_colours(capsys):
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8)
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="truecolor", width=80)
    shown = blocks._drawn(images, console)
    lines = out.getvalue().splitlines()
    assert shown == 9 * 4  # nine of 8 characters and a gap per line, four rows of 4 lines and a gap
    cells = re.findall(r"38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m▀", lines[0])
    colours = np.array(cells, int).reshape(9, 8, 2, 3)
    np.testing.assert_array_equal(colours, images[:9, :2].transpose(0, 2, 1, 3))
    assert blocks.draw(images) == 0 and capsys.readouterr().out == ""  # standard output is not a terminal

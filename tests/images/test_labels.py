"""Labels of every form: interpreted or left out if they are optional, refused if they are required."""

import json
import resource

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images.archives import png, write_tree, write_zip
from inprocess import complete
from steps.importing import step_of, store

from dgflow.images.sources import open_images
from dgflow.metrics.checks import class_balance
from dgflow.steps.sources.image_set import ImageSet

__all__ = ["store"]

PIXELS = np.random.default_rng(3).integers(0, 256, (6, 4, 4, 3), np.uint8)
NUMBERS = [0, 2, 1, 1, 0, 2]
ONE_HOT = np.eye(3)[NUMBERS]
TEXT = ["ant", "cat", "bee", "bee", "ant", "cat"]
VECTORS = np.random.default_rng(4).normal(size=(6, 25))


def npz(folder, labels, names=("arr_0", "arr_1")) -> str:
    np.savez(folder / "a.npz", **{names[0]: PIXELS, names[1]: labels})
    return str(folder / "a.npz")


def parquet(folder, labels) -> str:
    pq.write_table(pa.table({"image": [png(each) for each in PIXELS], "label": labels}), folder / "a.parquet")
    return str(folder / "a.parquet")


def listed(folder, labels) -> str:
    files = {f"p{number}.png": png(image) for number, image in enumerate(PIXELS)}
    document = {"labels": [[name, label] for name, label in zip(files, labels, strict=True)]}
    return str(write_zip(folder / "a.zip", files | {"dataset.json": json.dumps(document).encode()}))


OF_NUMBERS = {
    "npz uint8": (npz, np.array(NUMBERS, np.uint8)),
    "npz whole floats": (npz, np.array(NUMBERS, np.float32)),
    "npz of one column": (npz, np.array(NUMBERS)[:, None]),
    "parquet int8": (parquet, pa.array(NUMBERS, pa.int8())),
    "parquet whole floats": (parquet, pa.array(NUMBERS, pa.float64())),
    "parquet dictionary of numbers": (parquet, pa.array(NUMBERS).dictionary_encode()),
    "parquet lists of one": (parquet, [[number] for number in NUMBERS]),
    "dataset.json": (listed, NUMBERS),
}
TOLD = {
    "npz one-hot": (npz, ONE_HOT, "one-hot"),
    "npz one-hot float32": (npz, ONE_HOT.astype(np.float32), "one-hot"),
    "npz one-hot bool": (npz, ONE_HOT.astype(bool), "one-hot"),
    "npz text": (npz, np.array(TEXT), "text: classes in alphabetical order (ant, bee, cat)"),
    "npz bytes": (npz, np.array(TEXT, "S"), "text: classes in alphabetical order (ant, bee, cat)"),
    "parquet text": (parquet, TEXT, "text: classes in alphabetical order (ant, bee, cat)"),
    "parquet large text": (parquet, pa.array(TEXT, pa.large_string()), "text"),
    "parquet dictionary of text": (parquet, pa.array(TEXT).dictionary_encode(), "text"),
    "parquet one-hot lists": (parquet, ONE_HOT.astype(int).tolist(), "one-hot"),
    "dataset.json one-hot": (listed, ONE_HOT.tolist(), "one-hot"),
    "dataset.json text": (listed, TEXT, "text"),
}
GAPS = {
    "parquet numbers": (parquet, [0, None, 1, 1, None, 2]),
    "parquet text": (parquet, ["ant", None, "bee", "bee", None, "cat"]),
    "npz floats": (npz, np.array([0, np.nan, 1, 1, np.nan, 2])),
    "dataset.json": (listed, [0, None, 1, 1, None, 2]),
}
LEFT_OUT = {
    "npz vectors": (npz, VECTORS, "vectors of 25 numbers that are not one-hot"),
    "npz several classes each": (npz, np.ones((6, 3)), "vectors of 3 numbers"),
    "npz fractions": (npz, np.linspace(0, 1, 6), "numbers that are not whole"),
    "npz infinite": (npz, np.array([np.inf] * 6), "numbers that are not whole"),
    "npz large unsigned": (npz, np.array([2**64 - 1] * 6, np.uint64), "numbers up to 18446744073709551615"),
    "npz objects": (npz, np.array([{}] * 6, object), "which are not loaded"),
    "npz pictures": (npz, np.zeros((6, 4, 4)), "float64 of shape (6, 4, 4)"),
    "npz dates": (npz, np.zeros(6, "M8[s]"), "datetime64[s] of shape (6,)"),
    "parquet lists": (parquet, [[1, 2], [3], [], [1], [2], [4]], "lists, or values of several kinds"),
    "parquet structs": (parquet, [{"a": 1}] * 6, "lists, or values of several kinds"),
    "eg3d's cameras": (listed, VECTORS.tolist(), "vectors of 25 numbers that are not one-hot"),
}


@pytest.mark.parametrize("kind", OF_NUMBERS)
def test_whole_numbers_are_classes_in_every_form(tmp_path, kind):
    write, labels = OF_NUMBERS[kind]
    images = open_images(write(tmp_path, labels))
    assert images.labels is not None and images.labels.tolist() == NUMBERS and images.labels.dtype == np.int64
    assert images.notes == ()


@pytest.mark.parametrize("kind", TOLD)
def test_one_hot_vectors_and_text_are_classes_and_it_is_told(tmp_path, kind):
    write, labels, says = TOLD[kind]
    images = open_images(write(tmp_path, labels))
    assert images.labels is not None and images.labels.tolist() == NUMBERS
    assert len(images.notes) == 1 and f"the labels are {says}" in images.notes[0]


@pytest.mark.parametrize("kind", GAPS)
def test_empty_labels_are_unknown_classes_and_it_is_told(tmp_path, kind):
    write, labels = GAPS[kind]
    images = open_images(write(tmp_path, labels))
    assert images.labels is not None and images.labels.tolist() == [0, -1, 1, 1, -1, 2]
    assert "empty for 2 of 6 images" in images.notes[0]


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_labels_that_are_no_classes_are_left_out_and_it_is_told(tmp_path, kind):
    write, labels, says = LEFT_OUT[kind]
    images = open_images(write(tmp_path, labels))
    assert images.labels is None and np.array_equal(images.read(0, 6), PIXELS)
    assert f"the labels are left out: {says}" in images.notes[0] or says in images.notes[0]


@pytest.mark.parametrize("kind", [*TOLD, *GAPS, *LEFT_OUT])
def test_where_labels_are_needed_they_are_refused_with_the_way_out_and_without_classes_they_are_not_read(
    tmp_path, store, kind
):
    write, labels, *_ = (TOLD | GAPS | LEFT_OUT)[kind]
    source = write(tmp_path, labels)
    with pytest.raises(ValueError, match="num_classes=0|allow_pickle"):
        complete(step_of(source, num_classes=3).listing_step(), store)
    complete(step_of(source, num_classes=0).listing_step(), store)


def test_numbers_in_a_dictionary_are_classes_of_an_import(tmp_path, store):
    source = parquet(tmp_path, pa.array(NUMBERS).dictionary_encode())
    complete(step_of(source, num_classes=3).listing_step(), store)


def test_samples_as_the_published_guidance_code_writes_them_are_taken(tmp_path):
    images = open_images(npz(tmp_path, ONE_HOT.astype(np.float32), ("samples", "label")))
    assert images.labels is not None and images.labels.tolist() == NUMBERS


def test_vectors_that_are_all_zero_are_no_labels(tmp_path):
    images = open_images(npz(tmp_path, np.zeros((6, 10))))
    assert (images.labels, images.notes) == (None, ())


@pytest.mark.parametrize("labels", [np.zeros(7, int), ONE_HOT[:5]])
def test_another_number_of_labels_than_of_images_is_refused_with_the_option_that_ignores_them(
    tmp_path, labels
):
    source = npz(tmp_path, labels)
    with pytest.raises(ValueError, match="expected 6 labels in arr_1 of .*one per image.* --ignore-labels"):
        open_images(source)
    assert open_images(source, ignore_labels=True).labels is None


def test_labels_for_some_files_alone_are_refused_with_the_option_that_ignores_them(tmp_path):
    files = {f"p{number}.png": png(image) for number, image in enumerate(PIXELS)}
    source = str(write_tree(tmp_path / "a", files | {"dataset.json": b'{"labels": [["p0.png", 1]]}'}))
    with pytest.raises(ValueError, match=r"every file in dataset\.json .* --ignore-labels"):
        open_images(source)
    assert open_images(source, ignore_labels=True).labels is None


@pytest.mark.parametrize("document", [b"[]", b"{}", b"no json", b'{"labels": 5}', b'{"labels": [3]}'])
def test_a_dataset_json_of_another_kind_is_left_out_with_a_note(tmp_path, document):
    files = {f"p{number}.png": png(image) for number, image in enumerate(PIXELS)}
    images = open_images(str(write_tree(tmp_path / "a", files | {"dataset.json": document})))
    assert images.labels is None and "dataset.json is not in EDM" in images.notes[0]


@pytest.mark.parametrize("labels", [[-100] * 6, [0, 1, 2, 0, 1, -100], [10**11 + row for row in range(6)]])
def test_numbers_that_are_no_classes_are_told_before_anything_is_computed(tmp_path, labels, caplog):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    images = ImageSet.at(npz(tmp_path, np.array(labels)))
    (note,) = images.notes
    assert f"labels from {min(labels)} to {max(labels)} are not classes" in note and note in caplog.text
    assert class_balance(np.array(labels), None) == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10**5  # kB


def test_classes_of_an_unknown_number_are_judged_up_to_the_largest():
    labels = np.repeat([0, 2], 100)
    assert class_balance(labels, None) == class_balance(labels, 3) != []


def test_ignored_labels_are_another_identity_only_where_there_are_any(tmp_path):
    source = npz(tmp_path, np.array(NUMBERS))
    np.savez(tmp_path / "b.npz", PIXELS)
    ignored = ImageSet.at(source, ignore_labels=True)
    assert ignored.digest == ImageSet.at(str(tmp_path / "b.npz")).digest != ImageSet.at(source).digest
    assert ignored.open().labels is None

"""Listings: every form of the same pictures gives the same rows, in any process."""

import cloudpickle
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images.archives import png, write_tree
from images.listings import CLASSES, PICTURES, files, parquet, same, write

from dgflow.images.discovery import list_images
from dgflow.images.listing import Listing
from dgflow.images.readers import open_reader

__all__ = ["files"]


@pytest.mark.parametrize("form", PICTURES)
def test_every_form_of_the_same_pictures_gives_the_same_rows_in_any_order_and_process(
    tmp_path, files, pixels, form
):
    source = write(form, tmp_path, files)
    listing = Listing.decoded(list_images(source).encoded())
    assert (
        listing.classes == CLASSES
        and listing.labels is not None
        and listing.labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    )
    assert listing.paths(list(range(24))) == list(files)
    reader = cloudpickle.loads(cloudpickle.dumps(open_reader(source, listing)))
    for rows in (list(range(24)), [23, 0, 7, 7, 12]):
        assert same(reader.read(rows), pixels[rows])
    again = cloudpickle.loads(cloudpickle.dumps(reader))  # a reader with open files
    assert same(again.read([5]), pixels[[5]])


@pytest.mark.parametrize("form", PICTURES)
def test_a_listing_does_not_depend_on_where_the_source_lies(tmp_path, files, form):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = (list_images(write(form, tmp_path / name, files)) for name in ("one", "two"))
    if "gz" not in form:  # gzip records the time, which changes the size
        assert one.encoded() == two.encoded()
    assert one.digest == two.digest


@pytest.mark.parametrize("form", ["zip", "zip stored", "tar.gz"])
def test_another_pixel_in_a_file_of_the_same_size_changes_the_listing(tmp_path, form):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    data = b"BM" + bytes(100)
    one, two = (
        list_images(write(form, tmp_path / name, {"a/0.bmp": data, "b/0.bmp": data + end}))
        for name, end in (("one", b"x"), ("two", b"y"))
    )
    assert one.encoded() != two.encoded()


@pytest.mark.parametrize(
    ("image", "label"), [("image", "label"), ("img", "label"), ("img", "fine_label"), ("jpg", "cls")]
)
def test_the_columns_of_published_parquet_are_found(tmp_path, pixels, labels, image, label):
    for number in range(3):
        rows = slice(8 * number, 8 * number + 8)
        parquet(
            tmp_path / f"a/data/train-{number:05d}-of-00003.parquet", pixels[rows], labels[rows], image, label
        )
    parquet(
        tmp_path / "a/data/test-00000-of-00001.parquet", pixels[:3], labels[:3], image, label
    )  # is not trained on
    listing = Listing.decoded(list_images(str(tmp_path / "a")).encoded())
    assert listing.labels is not None and listing.labels.tolist() == labels.tolist()
    reader = cloudpickle.loads(cloudpickle.dumps(open_reader(str(tmp_path / "a"), listing)))
    rows = [20, 3, 3, 11, 23, 0]
    assert same(reader.read(rows), pixels[rows])


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("data/train-00000-of-00001-b2d0b4d40f8c6ac0.parquet", "data/test-00000-of-00001-0a.parquet"),
        ("train/0000.parquet", "validation/0000.parquet"),
        ("default/train/data-00000-of-00001.parquet", "default/test/data-00000-of-00001.parquet"),
    ],
)
def test_of_the_splits_of_a_data_set_train_is_listed(tmp_path, pixels, labels, train, test):
    parquet(tmp_path / "a" / train, pixels[:9], labels[:9])
    parquet(tmp_path / "a" / test, pixels[9:], labels[9:])
    assert (
        list_images(str(tmp_path / "a")).files[0][0] == train and list_images(str(tmp_path / "a")).rows == 9
    )


def test_of_a_data_set_of_one_split_all_is_listed(tmp_path, pixels, labels):
    for number in range(2):
        parquet(tmp_path / f"a/test-{number:05d}-of-00002.parquet", pixels, labels)
    assert list_images(str(tmp_path / "a")).rows == 48


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["test/0.parquet", "validation/0.parquet"], "found test, validation"),
        (["train-00000-of-00001.parquet", "more.parquet"], r"found more\.parquet of none, train"),
    ],
)
def test_splits_of_which_none_can_be_meant_are_named(tmp_path, pixels, labels, names, says):
    for name in names:
        parquet(tmp_path / "a" / name, pixels, labels)
    with pytest.raises(ValueError, match=says):
        list_images(str(tmp_path / "a"))


def test_parts_that_are_no_splits_are_all_read(tmp_path, pixels, labels):
    for number in range(2):
        parquet(tmp_path / f"a/part-{number:05d}-of-00002.parquet", pixels, labels)
    assert list_images(str(tmp_path / "a")).rows == 48


def test_labels_that_are_not_wanted_are_not_looked_at(tmp_path, files, pixels):
    """Covers text in Parquet, vectors in `dataset.json`, and one-hot rows in an npz."""
    cells = pa.array([png(each) for each in pixels])
    pq.write_table(pa.table({"image": cells, "label": ["ant"] * 24}), tmp_path / "a.parquet")
    np.savez(tmp_path / "a.npz", pixels, np.eye(24))
    vectors = files | {"dataset.json": b'{"labels": [["ant/00.png", [0.5, 1.0]]]}'}
    sources = [
        str(tmp_path / "a.parquet"),
        str(tmp_path / "a.npz"),
        *(write(form, tmp_path, vectors) for form in ("folder", "zip", "tar")),
    ]
    for source in sources:
        listing = list_images(source, labelled=False)
        assert listing.labels is None and same(open_reader(source, listing).read(range(24)), pixels)
        with pytest.raises(ValueError, match="labels|whole numbers"):
            list_images(source)


def test_a_parquet_file_of_one_split_is_read_whatever_its_name(tmp_path, pixels, labels):
    source = str(parquet(tmp_path / "validation-00000-of-00001.parquet", pixels, labels))
    assert list_images(source).rows == 24


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_is_listed_by_its_checksums(tmp_path, pixels, labels, save):
    save(tmp_path / "a.npz", pixels, labels)
    listing = Listing.decoded(list_images(str(tmp_path / "a.npz")).encoded())
    assert listing.labels is not None and listing.labels.tolist() == labels.tolist()
    rows = [9, 2, 23]
    assert same(open_reader(str(tmp_path / "a.npz"), listing).read(rows), pixels[rows])
    pixels[0, 0, 0, 0] ^= 1
    np.savez(tmp_path / "b.npz", pixels, labels)
    assert list_images(str(tmp_path / "b.npz")).digest != listing.digest


def test_a_list_of_labels_beside_the_pictures_comes_before_their_folders(tmp_path, files):
    labelled = files | {
        "dataset.json": ('{"labels": [' + ", ".join(f'["{name}", 7]' for name in files) + "]}").encode()
    }
    for form in ("folder", "zip", "tar"):
        listing = list_images(write(form, tmp_path, labelled))
        assert listing.labels is not None and set(listing.labels.tolist()) == {7} and not listing.classes


def test_pictures_without_folders_have_no_labels_and_gaps_in_their_numbers_are_no_fault(tmp_path, pixels):
    listing = list_images(
        str(write_tree(tmp_path / "a", {f"{item}.png": png(pixels[item]) for item in (1, 2, 5, 9)}))
    )
    assert (listing.rows, listing.labels) == (4, None)

"""Images for the evaluator in Parquet files, tars and CIFAR's archives, with equal results from every
source."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images.archives import by_class, cifar10_files, png, tar_bytes, write_tar, write_tree
from images.pictures import read_all, write_pictures

from dgflow.images.sources import open_images
from dgflow.steps.sources.image_set import ImageSet
from dgflow.store.shards import encode_shard

# Parquet


def write_shards(folder: Path, pixels: np.ndarray, ranges: list[tuple[int, int]]) -> Path:
    folder.mkdir()
    for number, (start, stop) in enumerate(ranges):
        shard = {
            "index": np.arange(start, stop),
            "label": np.arange(start, stop) % 3,
            "image": pixels[start:stop],
        }
        (folder / f"{number:05d}.parquet").write_bytes(encode_shard(shard))
    return folder


def test_shards_come_in_the_order_of_their_indices_whatever_their_names(tmp_path, pixels):
    images = open_images(str(write_shards(tmp_path / "a", pixels, [(16, 24), (4, 16)])))
    assert (images.first_index, images.rows) == (4, 20)
    assert images.labels is not None and images.labels.tolist() == [index % 3 for index in range(4, 24)]
    assert np.array_equal(images.read(5, 14), list(pixels[9:18]))


@pytest.mark.parametrize(
    ("ranges", "says"),
    [
        ([(0, 10), (8, 24)], "found 8, 9 more than once"),
        ([(0, 10), (12, 24)], "found 22 of 24: 10, 11 missing"),
        ([(0, 10), (0, 10)], r"found 0, 1, 2, 3, 4 \(and 5 more\) more than once"),
    ],
)
def test_shards_that_overlap_or_leave_a_gap_are_refused(tmp_path, pixels, ranges, says):
    with pytest.raises(ValueError, match=says):
        open_images(str(write_shards(tmp_path / "a", pixels, ranges)))


def test_the_form_of_hugging_face_is_read_by_row_group(tmp_path, pixels, labels):
    cells = [{"bytes": png(image), "path": None} for image in pixels]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(cells, kind), "label": labels})
    pq.write_table(table, tmp_path / "train-00000-of-00001.parquet", row_group_size=5)
    images = open_images(str(tmp_path))
    assert (
        images.first_index is None and images.labels is not None and images.labels.tolist() == labels.tolist()
    )
    assert (read_all(tmp_path) == pixels).all()
    pq.write_table(
        pa.table({"image": [cell["bytes"] for cell in cells], "label": labels}),
        tmp_path.parent / "plain.parquet",
    )
    assert open_images(str(tmp_path.parent / "plain.parquet")).digest == images.digest


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"index": np.arange(2), "latent": np.zeros((2, 4, 4, 4), np.float16)}, "latents; decode them first"),
        ({"index": np.arange(2), "features": np.zeros((2, 4), np.float32)}, r"found \['index', 'features'\]"),
        ({"index": np.arange(2), "image": np.zeros((2, 4, 4, 3), np.float32)}, "expected uint8 images"),
        (
            {"index": np.zeros(2), "image": np.zeros((2, 4, 4, 3), np.uint8)},
            "expected whole numbers in the column index",
        ),
    ],
)
def test_parquet_of_something_else_says_what_it_holds(tmp_path, columns, says):
    (tmp_path / "a.parquet").write_bytes(encode_shard(columns))
    with pytest.raises(ValueError, match=says):
        open_images(str(tmp_path / "a.parquet"))


def test_a_path_without_a_picture_is_refused(tmp_path):
    cells = pa.array(
        [{"bytes": None, "path": "a.png"}], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    pq.write_table(pa.table({"image": cells}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="only a path or nothing in row 0"):
        open_images(str(tmp_path / "a.parquet")).read(0, 1)


def test_damaged_parquet_is_named(tmp_path, pixels):
    path = write_shards(tmp_path / "a", pixels, [(0, 24)]) / "00000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"00000\.parquet, found damaged ones"):
        open_images(str(tmp_path / "a")).read(0, 24)
    path.write_bytes(data[:100])
    with pytest.raises(ValueError, match=r"expected Parquet at .*00000\.parquet"):
        open_images(str(tmp_path / "a"))


def test_of_a_data_set_with_splits_train_is_read_and_said(tmp_path, pixels):
    folder = write_shards(tmp_path / "a", pixels, [(0, 10), (10, 24)])
    (folder / "00000.parquet").rename(folder / "train-00000-of-00001.parquet")
    (folder / "00001.parquet").rename(folder / "test-00000-of-00001.parquet")
    images = open_images(str(folder))
    assert (images.rows, images.split) == (10, "train")
    assert np.array_equal(images.read(0, 10), list(pixels[:10]))
    (folder / "train-00000-of-00001.parquet").unlink()
    images = open_images(str(folder))
    assert (images.rows, images.split) == (14, "")
    (folder / "test-00000-of-00001.parquet").rename(folder / "validation-00000-of-00001.parquet")
    write_shards(tmp_path / "b", pixels, [(0, 24)])
    (tmp_path / "b" / "00000.parquet").rename(folder / "test-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="expected Parquet with a split train, .*found test, validation"):
        open_images(str(folder))


def test_an_image_set_warns_of_the_splits_that_it_leaves_out(tmp_path, pixels, caplog):
    folder = write_shards(tmp_path / "a", pixels, [(0, 10), (10, 24)])
    for number, split in enumerate(["train", "test"]):
        (folder / f"{number:05d}.parquet").rename(folder / f"{split}-00000-of-00001.parquet")
    assert ImageSet.at(str(folder)).rows == 10
    assert "the 10 images of the split train are read" in caplog.text


@pytest.mark.parametrize("column", ["index", "label"])
def test_files_that_differ_in_their_columns_are_refused(tmp_path, pixels, column):
    folder = write_shards(tmp_path / "a", pixels, [(0, 10), (10, 24)])
    table = pq.read_table(folder / "00001.parquet").drop_columns([column])
    pq.write_table(table, folder / "00001.parquet")
    says = "expected a column index in all files" if column == "index" else "labels of one form in all files"
    with pytest.raises(ValueError, match=says):
        open_images(str(folder))


# Tars and CIFAR


@pytest.mark.parametrize("form", ["tar", "tar.gz", "folder of tars"])
def test_tars_have_the_rows_labels_and_digest_of_the_folder_that_they_were_made_from(tmp_path, pixels, form):
    files = {f"{'ant' if item < 12 else 'bee'}/{item:02d}.png": png(pixels[item]) for item in range(24)}
    if form == "folder of tars":
        source = write_tree(
            tmp_path / "tars", {f"{name}.tar": tar_bytes(inner) for name, inner in by_class(files).items()}
        )
    else:
        source = write_tar(tmp_path / f"a.{form}", files)
    images, folder = open_images(str(source)), open_images(str(write_tree(tmp_path / "tree", files)))
    assert images.digest == folder.digest and np.array_equal(images.read(3, 21), list(pixels[3:21]))
    assert images.labels is not None and images.labels.tolist() == [0] * 12 + [1] * 12


def test_numbered_pictures_in_a_tar_come_in_the_order_of_their_numbers(tmp_path, pixels):
    source = write_tar(tmp_path / "a.tar", {f"{item}.png": png(pixels[item]) for item in range(24)})
    images = open_images(str(source))
    assert images.first_index == 0 and np.array_equal(images.read(0, 24), list(pixels))


@pytest.mark.parametrize("packed", [True, False])
def test_the_training_images_of_cifars_archive_have_the_digest_of_the_same_arrays(tmp_path, packed):
    files, pixels, labels = cifar10_files()
    source = write_tar(tmp_path / "cifar.tgz", files) if packed else write_tree(tmp_path / "cifar", files)
    images = open_images(str(source))
    np.savez(tmp_path / "a.npz", pixels, labels)
    assert images.digest == open_images(str(tmp_path / "a.npz")).digest and images.split == "train"
    assert images.labels is not None and images.labels.tolist() == labels.tolist()
    assert np.array_equal(images.read(4, 20), list(pixels[4:20]))


# All sources


@pytest.fixture(
    params=["stored.npz", "compressed.npz", "folder", "zip.zip", "parquet", "plain.tar", "packed.tar.gz"]
)
def source(request, tmp_path, pixels) -> str:
    path = tmp_path / request.param
    if "tar" in request.param:
        return str(write_tar(path, {f"{item}.png": png(image) for item, image in enumerate(pixels)}))
    if request.param == "folder":
        write_pictures(path, [f"{item}.png" for item in range(24)], pixels)
    elif request.param == "parquet":
        write_shards(path, pixels, [(0, 10), (10, 24)])
    elif request.param == "zip.zip":
        with zipfile.ZipFile(path, "w") as archive:
            for item, image in enumerate(pixels):
                archive.writestr(f"{item}.png", png(image))
    else:
        (np.savez if request.param == "stored.npz" else np.savez_compressed)(path, pixels)
    return str(path)


def test_a_reader_travels_after_it_was_used(source, pixels):
    images = open_images(source)
    images.read(3, 9)
    digest = images.digest
    again = pickle.loads(pickle.dumps(images))
    assert np.array_equal(again.read(5, 20), list(pixels[5:20])) and again.digest == digest


def test_a_fork_does_not_disturb_its_parent(source, pixels):
    images = open_images(source)
    images.read(0, 2)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(images.read(10, 24), list(pixels[10:24])) else 1)
    found = images.read(2, 12)
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(found, list(pixels[2:12]))


def test_rows_may_be_written_to_without_changing_what_is_read_next(source, pixels):
    images = open_images(source)
    for image in images.read(0, 24):
        image[:] = 0
    assert np.array_equal(images.read(0, 24), list(pixels))


def test_everything_reads_the_same_from_s3(source, s3_url, pixels):
    from dgflow.files.locations import S3Location

    name, path = Path(source).name, Path(source)
    place = S3Location(s3_url.removeprefix("s3://"))
    for file in [path] if path.is_file() else path.rglob("*.*"):
        key = (
            f"{place.bucket}/{place.key}/{name}"
            if path.is_file()
            else f"{place.bucket}/{place.key}/{name}/{file.relative_to(path)}"
        )
        place.request("write", lambda fs, key=key, file=file: fs.pipe_file(key, file.read_bytes()))
    images, local = open_images(f"{s3_url}/{name}"), open_images(source)
    assert (images.rows, images.digest, images.first_index) == (local.rows, local.digest, local.first_index)
    assert np.array_equal(pickle.loads(pickle.dumps(images)).read(4, 21), list(pixels[4:21]))


def test_mixtures_and_what_is_not_there_say_what_was_found(tmp_path, pixels):
    write_pictures(tmp_path / "a", ["0.png"], pixels[:1])
    (tmp_path / "a" / "b.parquet").write_bytes(b"")
    for source, says in [
        (tmp_path / "a", r"found 1 images \(such as 0\.png\), 1 \.parquet"),
        (tmp_path / "none", "found nothing there .*; give an .npz"),
        (tmp_path / "a" / "b.txt", "found nothing there"),
    ]:
        with pytest.raises(ValueError, match=says):
            open_images(str(source))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "notes.txt").touch()
    with pytest.raises(ValueError, match="found 1 files of no known kind"):
        open_images(str(tmp_path / "c"))
    with pytest.raises(ValueError, match="found a file of another kind"):
        open_images(str(tmp_path / "c" / "notes.txt"))


@pytest.mark.parametrize(
    "source",
    [
        "s3://KEY:HIDDEN@bucket/a.npz",
        "s3://bucket/a.npz?token=HIDDEN",
        "https://user:HIDDEN@host/a.npz",
        "s3://KEY:HIDDEN@bucket/runs/a/generate-0[0:4]",
        "s3://bucket/runs/generate-0?token=HIDDEN[0:4]",
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(source):
    with pytest.raises(ValueError) as raised:
        open_images(source)
    assert "HIDDEN" not in str(raised.value)

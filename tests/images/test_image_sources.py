"""Every form that images come in: the pixels that PIL, numpy and pyarrow see, in the right order, and what is
wrong is named."""

import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images.archives import by_class, cifar10_files, png, tar_bytes, write_tar, write_tree
from PIL import Image

from dgflow.images.sources import open_images
from dgflow.steps.sources.image_set import ImageSet
from dgflow.store.shards import encode_shard, rows_sha256


def read_all(source, block: int = 7) -> np.ndarray:
    images = open_images(str(source))
    return np.stack(
        [each for start in range(0, images.rows, block) for each in images.read(start, start + block)]
    )


def write_pictures(folder: Path, names: list[str], pixels: np.ndarray) -> Path:
    for name, image in zip(names, pixels, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    return folder


# npz


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "names", [("arr_0", "arr_1"), ("samples", "label"), ("samples", "labels"), ("image", "label")]
)
def test_an_npz_gives_its_rows_and_labels(tmp_path, pixels, labels, save, names):
    save(tmp_path / "a.npz", **{names[0]: pixels, names[1]: labels})
    images = open_images(str(tmp_path / "a.npz"))
    assert (images.rows, images.seed, images.first_index) == (24, None, None)
    assert (
        images.labels is not None
        and images.labels.tolist() == labels.tolist()
        and images.labels.dtype == np.int64
    )
    assert (read_all(tmp_path / "a.npz") == pixels).all()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rows_of_an_npz_may_be_read_in_any_order(tmp_path, pixels, save):
    save(tmp_path / "a.npz", pixels)
    images = open_images(str(tmp_path / "a.npz"))
    for start, stop in [(20, 24), (3, 5), (3, 5), (0, 1), (22, 99), (9, 9)]:
        assert np.array_equal(images.read(start, stop), list(pixels[start:stop]))


def test_the_digest_of_arrays_is_of_pixels_and_labels_alone(tmp_path, pixels, labels):
    np.savez(tmp_path / "a.npz", pixels, labels)
    np.savez_compressed(tmp_path / "b.npz", label=labels.astype(np.int32), samples=pixels, other=np.zeros(3))
    index = np.arange(24)
    (tmp_path / "c.parquet").write_bytes(encode_shard({"index": index, "image": pixels, "label": labels}))
    expected = rows_sha256({"image": pixels, "label": labels})
    assert [open_images(str(tmp_path / name)).digest for name in ("a.npz", "b.npz", "c.parquet")] == [
        expected
    ] * 3
    np.savez(tmp_path / "d.npz", pixels)
    assert open_images(str(tmp_path / "d.npz")).digest == rows_sha256({"image": pixels})


def test_images_without_a_channel_are_grey(tmp_path, pixels):
    np.savez(tmp_path / "a.npz", pixels[..., 0])
    assert (read_all(tmp_path / "a.npz") == pixels[..., :1]).all()


def test_labels_that_are_all_minus_one_are_no_labels(tmp_path, pixels):
    np.savez(tmp_path / "a.npz", image=pixels, label=np.full(24, -1))
    assert open_images(str(tmp_path / "a.npz")).labels is None


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        (dict(arr_0=np.zeros((2, 4, 4, 3), np.float32)), "found float32; scale them to 0 to 255"),
        (dict(arr_0=np.zeros((2, 4, 4, 3), np.int64)), "found int64; save them as uint8"),
        (dict(arr_0=np.zeros((2, 3, 4, 4), np.uint8)), "put the channels last"),
        (dict(arr_0=np.zeros((2, 4, 4, 2), np.uint8)), r"found \(2, 4, 4, 2\)"),
        (dict(arr_0=np.zeros((0, 4, 4, 3), np.uint8)), r"found \(0, 4, 4, 3\)"),
        (dict(arr_0=np.asfortranarray(np.ones((2, 4, 4, 3), np.uint8))), "ascontiguousarray"),
        (dict(arr_0=np.array([{}], object)), "allow_pickle"),
        (dict(mu=np.zeros(3), sigma=np.zeros((3, 3))), r"found the arrays \['mu', 'sigma'\]"),
        (
            dict(arr_0=np.zeros((2, 4, 4, 3), np.uint8), samples=np.zeros((2, 4, 4, 3), np.uint8)),
            "expected one array of images",
        ),
        (
            dict(arr_0=np.zeros((2, 4, 4, 3), np.uint8), arr_1=np.zeros(3, int)),
            r"expected 2 labels .* of shape \(3,\)",
        ),
        (dict(arr_0=np.zeros((2, 4, 4, 3), np.uint8), arr_1=np.zeros(2)), "found float64"),
    ],
)
def test_an_npz_of_another_form_says_what_it_holds(tmp_path, arrays, says):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=says):
        open_images(str(tmp_path / "a.npz"))


def test_a_cut_or_foreign_npz_is_named(tmp_path, pixels):
    np.savez(tmp_path / "a.npz", pixels)
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:500])
    with pytest.raises(
        ValueError, match=r"expected an npz at .*a\.npz, found another file or one that is cut short"
    ):
        open_images(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_bit_in_an_npz_is_found_by_its_digest(tmp_path, pixels, save):
    save(tmp_path / "a.npz", pixels)
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[1000] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"arr_0 in .*a\.npz, found one that is damaged"):
        _ = open_images(str(tmp_path / "a.npz")).digest


def test_rows_of_a_large_npz_are_read_without_the_rest(tmp_path):
    """300 MB, of which three rows are read: less than 30 MB more than before."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, archive.open("arr_0.npy", "w") as member:
        np.lib.format.write_array_header_1_0(
            member, {"descr": "|u1", "fortran_order": False, "shape": (1526, 256, 256, 3)}
        )
        for row in range(1526):
            member.write(bytes([row % 251]) * (256 * 256 * 3))
    program = (
        "import resource, sys; from dgflow.images.sources import open_images; import numpy, zipfile;"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; before = peak();"
        "rows = open_images(sys.argv[1]).read(1500, 1503);"
        "print([int(row[-1, -1, -1]) for row in rows], peak() - before < 30 * 1024)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.npz")], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == f"[{1500 % 251}, {1501 % 251}, {1502 % 251}] True"


# Folders and zips of pictures


def test_sub_folders_are_classes_in_alphabetical_order(tmp_path, pixels):
    names = [f"{name}/{item}.png" for name in ("ant", "bee", "cat") for item in range(8)]
    images = open_images(str(write_pictures(tmp_path / "a", names, pixels)))
    assert images.labels is not None and images.labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert np.array_equal(images.read(0, 24), list(pixels)) and images.first_index is None


@pytest.mark.parametrize(
    "names", [[f"{item}.png" for item in range(24)], [f"all/{item:04d}.png" for item in range(24)]]
)
def test_numbered_files_come_in_the_order_of_their_numbers(tmp_path, pixels, names):
    images = open_images(str(write_pictures(tmp_path / "a", names, pixels)))
    assert np.array_equal(images.read(0, 24), list(pixels))
    assert (images.labels, images.first_index) == (None, 0)


def test_folders_of_a_thousand_are_indices_and_no_classes(tmp_path, pixels):
    names = [f"{index // 1000 * 1000:06d}/{index:06d}.png" for index in range(49_990, 50_014)]
    images = open_images(str(write_pictures(tmp_path / "a", names, pixels)))
    assert (images.labels, images.first_index, images.rows) == (None, 49_990, 24)
    assert np.array_equal(images.read(0, 24), list(pixels))


@pytest.mark.parametrize(
    ("lost", "says"),
    [([3], "found 23 of 24: 3 missing"), (range(2, 10), r"2, 3, 4, 5, 6 \(and 3 more\) missing")],
)
def test_a_missing_index_is_named(tmp_path, pixels, lost, says):
    write_pictures(tmp_path / "a", [f"000000/{item:06d}.png" for item in range(24)], pixels)
    for item in lost:
        (tmp_path / "a" / "000000" / f"{item:06d}.png").unlink()
    with pytest.raises(ValueError, match=says):
        open_images(str(tmp_path / "a"))


def test_an_index_that_is_there_twice_is_named(tmp_path, pixels):
    write_pictures(tmp_path / "a", [f"000000/{item:06d}.png" for item in range(24)], pixels)
    Image.fromarray(pixels[0]).save(tmp_path / "a" / "000000" / "000007.jpg")
    with pytest.raises(
        ValueError, match=r"found 7 more than once, such as 000000/000007\.jpg and 000000/000007\.png"
    ):
        open_images(str(tmp_path / "a"))


def test_numbers_that_are_mostly_missing_are_names(tmp_path, pixels):
    images = open_images(
        str(write_pictures(tmp_path / "a", [f"{139 + 1000 * item:012d}.png" for item in range(24)], pixels))
    )
    assert (images.rows, images.first_index) == (24, None)


def test_the_data_sets_of_stylegan_have_their_labels_in_a_file(tmp_path, pixels):
    names = [f"00000/img{item:08d}.png" for item in range(24)]
    folder = write_pictures(tmp_path / "a", names, pixels)
    assert open_images(str(folder)).labels is None
    (folder / "dataset.json").write_text(
        f'{{"labels": [{", ".join(f"""["{name}", {i % 5}]""" for i, name in enumerate(names))}]}}'
    )
    labels = open_images(str(folder)).labels
    assert labels is not None and labels.tolist() == [item % 5 for item in range(24)]
    (folder / "dataset.json").write_text('{"labels": [["00000/img00000000.png", 1]]}')
    with pytest.raises(ValueError, match="every file in dataset.json"):
        open_images(str(folder))


@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_a_zip_is_the_folder_that_it_was_made_from(tmp_path, pixels, compression):
    names = [f"pictures/{name}/{item:02d}.png" for name in ("ant", "bee") for item in range(12)]
    folder = write_pictures(tmp_path / "a", names, pixels)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", compression) as archive:
        archive.writestr("__MACOSX/ant/._0.png", b"x")
        for name in reversed(names):
            archive.write(folder / name, name)
    a, b = open_images(str(folder)), open_images(str(tmp_path / "a.zip"))
    assert (
        a.digest == b.digest
        and a.labels is not None
        and b.labels is not None
        and a.labels.tolist() == b.labels.tolist()
    )
    assert np.array_equal(b.read(0, 24), list(pixels))


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK"])
def test_every_mode_becomes_what_pil_makes_of_it(tmp_path, pixels, mode):
    image = Image.fromarray(pixels[0]).convert(mode)
    image.save(tmp_path / ("0.jpg" if mode == "CMYK" else "0.png"))
    (found,) = open_images(str(tmp_path)).read(0, 1)
    if mode in ("L", "1"):
        assert np.array_equal(found[..., 0], np.array(image.convert("L"))) and found.shape == (6, 5, 1)
    else:
        saved = Image.open(next(tmp_path.iterdir()))
        assert np.array_equal(found, np.array(saved.convert("RGB")))


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (Image.fromarray(np.full((4, 4, 4), 128, np.uint8), "RGBA"), r"0\.png.*transparent pixels"),
        (Image.fromarray(np.full((4, 4), 1000, np.uint16)), r"0\.png.*more than 8 bits"),
    ],
)
def test_a_picture_with_no_one_meaning_is_refused(tmp_path, image, says):
    image.save(tmp_path / "0.png")
    with pytest.raises(ValueError, match=says):
        open_images(str(tmp_path)).read(0, 1)


def test_sizes_may_differ_and_a_rotation_in_the_notes_is_not_applied(tmp_path, pixels):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[0]).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(pixels[1][:3]).save(tmp_path / "b.png")
    assert [each.shape for each in open_images(str(tmp_path)).read(0, 2)] == [(6, 5, 3), (3, 5, 3)]


@pytest.mark.parametrize("data", [b"no image", None], ids=["foreign", "cut short"])
def test_a_broken_file_is_named(tmp_path, pixels, data):
    write_pictures(tmp_path, [f"{item}.png" for item in range(24)], pixels)
    path = tmp_path / "11.png"
    path.write_bytes(data or path.read_bytes()[:60])
    images = open_images(str(tmp_path))
    assert len(images.read(0, 11)) == 11
    with pytest.raises(ValueError, match=r"expected an image at .*11\.png"):
        images.read(10, 13)


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
    assert "the 10 images of the split train are taken" in caplog.text


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


# All of them


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
        (tmp_path / "none", "found nothing there; give an .npz"),
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

"""Folders as found in practice: links, splits, suffixes, numbered pictures and folders. Every case goes
through metrics (samples and reference), export and import, which must find the same images."""

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from images.archives import png, tar_bytes, write_tar, write_tree, write_zip
from images.listings import parquet
from PIL import Image

from dgflow.cli.export import export
from dgflow.images.changes import check_unchanged
from dgflow.images.discovery import list_images
from dgflow.images.listing import Listing
from dgflow.images.sources import is_step, open_images
from dgflow.steps.sources.image_set import ImageSet


def tree(names: list[str]) -> dict[str, bytes]:
    """Writes a different picture for each name."""
    return {name: png(np.full((4, 4, 3), number, np.uint8)) for number, name in enumerate(names)}


class Found(NamedTuple):
    rows: int
    labels: list[int] | None
    notes: tuple[str, ...]


def by_metrics(source: str, folder: Path, gaps: bool = False) -> Found:
    spec = ImageSet.at(source, gaps=gaps)
    labels = spec.open().labels
    return Found(spec.rows, None if labels is None else labels.tolist(), spec.notes)


def by_reference(source: str, folder: Path) -> Found:
    return by_metrics(source, folder, gaps=True)


def by_export(source: str, folder: Path) -> Found:
    export(source, str(folder / "out.zip"), "png")
    images = open_images(str(folder / "out.zip"))
    return Found(images.rows, None if images.labels is None else images.labels.tolist(), ())


def by_import(source: str, folder: Path) -> Found:
    listing = list_images(source)
    return Found(listing.rows, None if listing.labels is None else listing.labels.tolist(), listing.notes)


READERS = {"samples": by_metrics, "reference": by_reference, "export": by_export, "import": by_import}
every_reader = pytest.mark.parametrize("read", READERS.values(), ids=READERS)
Read = Callable[[str, Path], Found]


# Links


def looped(folder: Path) -> Path:
    write_tree(folder, tree(["a.png", "b.png", "sub/c.png"]))
    (folder / "self").symlink_to(folder)
    (folder / "sub" / "up").symlink_to(folder.parent)
    (folder / "again").symlink_to(folder / "sub")
    return folder


@every_reader
def test_a_folder_is_read_once_however_many_links_lead_to_it(tmp_path, read: Read):
    found = read(str(looped(tmp_path / "a")), tmp_path)
    assert found.rows == 3
    assert read is by_export or found.notes == ("reached twice and read once: again, self, sub/up",)


def test_names_do_not_depend_on_links(tmp_path):
    """A link to a class folder precedes the folder itself, one level up."""
    write_tree(tmp_path / "a", tree(["x/cat/0.png", "x/dog/1.png"]))
    (tmp_path / "a" / "cat").symlink_to(tmp_path / "a/x/cat")
    listing = list_images(str(tmp_path / "a"))
    assert listing.names is not None
    assert listing.names.to_pylist() == ["x/cat/0.png", "x/dog/1.png"] and listing.classes == ("cat", "dog")


@every_reader
def test_links_to_class_folders_and_files_elsewhere_are_followed(tmp_path, read: Read):
    write_tree(tmp_path / "data", tree(["cats/0.png", "dogs/1.png", "blob"]))
    (tmp_path / "a").mkdir()
    (tmp_path / "a/cat").symlink_to(tmp_path / "data/cats")
    (tmp_path / "a/dog").symlink_to(tmp_path / "data/dogs")
    (tmp_path / "a/eel").mkdir()
    for name in ("0.png", "1.png"):  # stores that deduplicate equal files link to them by several names
        (tmp_path / "a/eel" / name).symlink_to(tmp_path / "data/blob")
    found = read(str(tmp_path / "a"), tmp_path)
    assert found[:2] == (4, [0, 1, 2, 2])
    assert read is by_export or "read twice: eel/1.png" in found.notes[0]


@every_reader
def test_a_link_beside_its_own_picture_is_not_another_picture(tmp_path, read: Read):
    folder = write_tree(tmp_path / "a", tree(["a.png", "b.png"]))
    (folder / "latest.png").symlink_to("b.png")
    assert read(str(folder), tmp_path).rows == 2


@every_reader
def test_links_into_a_cache_below_the_same_folder_are_the_pictures(tmp_path, read: Read):
    """The cache of Hugging Face's hub keeps files by digest, and links with their names."""
    folder = write_tree(tmp_path / "a", tree(["blobs/0c1d", "blobs/7e9f"]))
    for name, blob in (("cat/0.png", "0c1d"), ("dog/1.png", "7e9f")):
        link = folder / "snapshots" / "5f2" / name
        link.parent.mkdir(parents=True)
        link.symlink_to(folder / "blobs" / blob)
    assert read(str(folder), tmp_path)[:2] == (2, [0, 1])


@every_reader
@pytest.mark.parametrize("name", ["latest", "notes.txt"])
def test_a_dangling_link_that_is_no_picture_is_a_note(tmp_path, read: Read, name):
    folder = write_tree(tmp_path / "a", tree(["a.png", "b.png"]))
    (folder / name).symlink_to("nowhere")
    (folder / "itself").symlink_to("itself")
    os.mkfifo(folder / "pipe")
    found = read(str(folder), tmp_path)
    assert found.rows == 2
    expected = ", ".join(sorted(["itself", name, "pipe"]))
    assert read is by_export or found.notes == (f"left out, since they are not files: {expected}",)


@every_reader
def test_a_dangling_link_that_should_be_a_picture_is_named(tmp_path, read: Read):
    folder = write_tree(tmp_path / "a", tree(["a.png"]))
    (folder / "b.PNG").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"expected a file at b\.PNG in .*a broken link"):
        read(str(folder), tmp_path)


def test_links_within_an_archive_are_told_and_hard_links_are_pictures(tmp_path):
    import tarfile

    path = write_tar(tmp_path / "a.tar", tree(["cat/0.png", "dog/0.png"]))
    with tarfile.open(path, "a") as tar:
        for name, kind in (("cat/1.png", tarfile.LNKTYPE), ("cat/2.png", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "dog/0.png"
            tar.addfile(member)
    images = open_images(str(path))
    note = "links left out, since their targets are not in the archive: cat/2.png"
    assert images.rows == 3 and images.notes == (note,)
    assert [int(each[0, 0, 0]) for each in images.read(0, 3)] == [0, 1, 1]
    with zipfile.ZipFile(write_zip(tmp_path / "a.zip", tree(["0.png"])), "a") as archive:
        link = zipfile.ZipInfo("1.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "0.png")
    assert open_images(str(tmp_path / "a.zip")).rows == 1


# Splits


def of_form(form: str, folder: Path, files: dict[str, bytes]) -> str:
    if form == "zip":
        return str(write_zip(folder / "a.zip", files))
    if form == "tar":
        return str(write_tar(folder / "a.tar", files))
    if form == "folder of tars":
        tops = {name.split("/")[0] for name in files}
        parts = {
            top: {name.split("/", 1)[1]: data for name, data in files.items() if name.startswith(f"{top}/")}
            for top in tops
        }
        return str(write_tree(folder / "a", {f"{top}.tar": tar_bytes(part) for top, part in parts.items()}))
    return str(write_tree(folder / "a", files))


SPLIT_TREES = {
    "train and val": ["{train}/cat/0.png", "{train}/dog/1.png", "{val}/cat/2.png", "{val}/dog/3.png"],
    "below a folder": ["x/data/{train}/cat/0.png", "x/data/{train}/dog/1.png", "x/data/{val}/dog/3.png"],
    "below classes": ["cat/{train}/0.png", "cat/{val}/2.png", "dog/{train}/1.png", "dog/{val}/3.png"],
}
SPELLINGS = [("train", "val"), ("Train", "Test"), ("training", "validation"), ("train2017", "val2017")]


@every_reader
@pytest.mark.parametrize("paths", SPLIT_TREES.values(), ids=SPLIT_TREES)
@pytest.mark.parametrize(("train", "val"), SPELLINGS)
def test_a_split_is_never_a_class(tmp_path, read: Read, paths, train, val):
    files = tree([path.format(train=train, val=val) for path in paths])
    found = read(of_form("folder", tmp_path, files), tmp_path)
    assert found[:2] == (2, [0, 1])
    assert read is by_export or f"images of the split {train} are read" in found.notes[0]


@every_reader
@pytest.mark.parametrize("form", ["folder", "zip", "tar", "folder of tars"])
def test_an_address_names_the_split(tmp_path, read: Read, form):
    source = of_form(form, tmp_path, tree(["train/cat/0.png", "val/cat/1.png", "val/dog/2.png"]))
    for name in ("val", "validation"):
        (tmp_path / name).mkdir()
        assert read(f"{source}@{name}", tmp_path / name)[:2] == (2, [0, 1])
    with pytest.raises(ValueError, match="expected the split test in .*, found train, val"):
        read(f"{source}@test", tmp_path)


@every_reader
@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["test/0.png", "val/1.png"], "expected pictures with a split train, .*found test, val; name the"),
        (["train/0.png", "test/1.png", "cat/2.png"], "found cat of none, test, train"),
        (["seg_train/a/0.png", "seg_test/a/1.png", "seg_pred/2.png"], "found seg_pred of none"),
    ],
)
def test_splits_of_which_none_is_plainly_meant_are_listed(tmp_path, read: Read, names, says):
    source = str(write_tree(tmp_path / "a", tree(names)))
    with pytest.raises(ValueError, match=f"{says}.*@"):
        read(source, tmp_path)


@every_reader
@pytest.mark.parametrize("names", [["test/cat/0.png", "test/dog/1.png"], ["bus/0.png", "train/1.png"]])
def test_one_folder_of_such_a_name_is_no_choice_and_among_others_a_class(tmp_path, read: Read, names):
    assert read(str(write_tree(tmp_path / "a", tree(names))), tmp_path)[:2] == (2, [0, 1])


@every_reader
@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train-00000-of-00001", "test-00000-of-00001"),
        ("train", "test"),
        ("default/train/0000", "default/test/0000"),
        ("data_train_0", "data_test_0"),
    ],
)
def test_the_same_split_of_parquet_is_read_by_all(tmp_path, read: Read, pixels, labels, train, test):
    parquet(tmp_path / "a" / f"{train}.parquet", pixels[:9], labels[:9])
    parquet(tmp_path / "a" / f"{test}.parquet", pixels[9:], labels[9:])
    found = read(str(tmp_path / "a"), tmp_path)
    assert found[:2] == (9, labels[:9].tolist())
    says = "the 9 images of the split train are read, and test"
    assert read is by_export or found.notes[0].startswith(says)
    (tmp_path / "test").mkdir()
    assert read(f"{tmp_path}/a@test", tmp_path / "test")[:2] == (15, labels[9:].tolist())


def test_tars_of_one_split_are_one_split(tmp_path):
    files = tree([f"{split}-{part:05d}/{part}.png" for split in ("train", "val") for part in (0, 1)])
    source = of_form("folder of tars", tmp_path, files)
    images = open_images(source)
    assert images.rows == 2 and images.labels is None
    assert images.notes == (
        "the 2 images of the split train are read, and validation (2 files) left out; for another split: "
        f"{source}@validation",
    )
    assert [int(each[0, 0, 0]) for each in open_images(f"{source}@validation").read(0, 2)] == [2, 3]


def test_folders_of_which_the_names_do_not_tell_whether_they_are_classes_are_a_note(tmp_path):
    source = str(write_tree(tmp_path / "a", tree(["00a/x.png", "00b/y.png", "01f/z.png"])))
    (note,) = open_images(source).notes
    assert note.startswith("the folders 00a to 01f are taken as 3 classes; if they are not classes, leave")


def test_a_split_in_s3_is_named_as_one_on_a_disk(s3_url):
    from dgflow.store.open import open_store

    store = open_store(s3_url)
    for name, data in tree(["a/train/cat/0.png", "a/val/cat/1.png", "a/val/dog/2.png"]).items():
        store.put(name, data)
    images = open_images(f"{s3_url}/a@val")
    assert images.rows == 2 and images.labels is not None and images.labels.tolist() == [0, 1]
    assert open_images(f"{s3_url}/a").rows == 1


def test_a_path_with_an_at_sign_is_a_path(tmp_path):
    source = str(write_tree(tmp_path / "photos@test", tree(["0.png"])))
    assert open_images(source).rows == 1


def test_a_listing_that_has_all_splits_stays_valid(tmp_path):
    """The listing is as earlier versions made it."""
    source = str(write_tree(tmp_path / "a", tree(["train/0.png", "val/1.png", "val/2.tif"])))
    earlier = Listing.decoded(list_images(source, every_split=True).encoded())
    assert earlier.rows == 3 and earlier.classes == ("train", "val")
    check_unchanged(source, earlier)


# Suffixes


@every_reader
@pytest.mark.parametrize("form", ["folder", "zip", "tar"])
def test_every_suffix_of_a_picture_is_read_and_what_is_left_out_is_counted(tmp_path, read: Read, form):
    files = {}
    for number, (suffix, kind) in enumerate(
        [("tif", "TIFF"), ("tiff", "TIFF"), ("ppm", "PPM"), ("gif", "GIF"), ("jfif", "JPEG"), ("jpe", "JPEG")]
        + [("JPEG", "JPEG"), ("WebP", "WEBP"), ("bmp", "BMP"), ("png", "PNG")]
    ):
        out = io.BytesIO()
        Image.fromarray(np.full((4, 4, 3), 9 * number, np.uint8)).save(out, kind)
        files[f"{number}a.{suffix}"] = out.getvalue()
    out = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(out, "PPM")
    files["b.pgm"] = out.getvalue()
    more = {"x.txt": b"1", "y.txt": b"2", "z.heic": b"3", "LICENSE": b"4"}
    found = read(of_form(form, tmp_path, files | more), tmp_path)
    assert found.rows == 11
    says = "4 files are left out: 2 .txt, 1 .heic, 1 without a suffix"
    assert read is by_export or found.notes[0] == says


# Numbered pictures and folders


def test_numbered_pictures_with_gaps_are_a_reference_and_no_samples(tmp_path):
    source = str(write_tree(tmp_path / "a", tree([f"{n:06d}.jpg" for n in range(1, 21) if n not in (7, 13)])))
    with pytest.raises(ValueError, match="found 18 of 20: 7, 13 missing; .*as a reference they are taken"):
        by_metrics(source, tmp_path)
    note = "2 of the numbers 1 to 20 are missing (7, 13): read as part of a larger set"
    assert by_reference(source, tmp_path) == (18, None, (note,))
    assert by_export(source, tmp_path).rows == by_import(source, tmp_path).rows == 18


@pytest.mark.parametrize(("index", "rows"), [([3, 40, 8, 17, 30, 22], 6), ([0, 1, 2, 4, 5, 6], 6)])
def test_an_index_of_another_parquet_is_taken_as_rows(tmp_path, pixels, index, rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"image": [png(each) for each in pixels[:6]], "index": index})
    pq.write_table(table, tmp_path / "a.parquet")
    source = str(tmp_path / "a.parquet")
    assert by_reference(source, tmp_path).rows == by_export(source, tmp_path).rows == rows
    if index[0] == 0:  # mostly complete: samples may be missing
        with pytest.raises(ValueError, match="3 missing; .*leave that column out or rename it"):
            by_metrics(source, tmp_path)
    else:
        assert by_metrics(source, tmp_path).rows == rows


@every_reader
@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["00000/00000.png", "01000/01000.png", "69000/69999.png"], "number their pictures"),
        (["00000/img00000999.png", "00001/img00001000.png"], "number their pictures"),
        (["00000/000000007.jpg", "00012/000120034.jpg"], "number their pictures"),
        (["0a/0a1f33cde.png", "ff/ff00aa123.png"], "are the first digits of their pictures' names"),
    ],
)
def test_folders_that_number_their_pictures_are_no_classes(tmp_path, read: Read, names, says):
    found = read(str(write_tree(tmp_path / "a", tree(names))), tmp_path)
    assert found[:2] == (len(names), None)
    assert read is by_export or f"{says} and are not classes" in found.notes[0]


@every_reader
@pytest.mark.parametrize(
    "names",
    [
        ["0/0001.png", "1/0002.png", "9/0003.png"],  # CIFAR as PNG
        ["00000/00000_00001.png", "00007/00007_00001.png", "00042/00042_00000.png"],  # GTSRB
        ["000/000012.png", "001/001017.png", "002/002003.png"],  # a thousand per class, numbered through
        ["n01440764/n01440764_10026.JPEG", "n01443537/n01443537_1.JPEG", "n01484850/n01484850_2.JPEG"],
    ],
)
def test_folders_of_classes_stay_classes(tmp_path, read: Read, names):
    assert read(str(write_tree(tmp_path / "a", tree(names))), tmp_path)[:2] == (3, [0, 1, 2])


@every_reader
def test_tars_that_are_numbered_through_are_no_classes_and_the_folders_in_them_are(tmp_path, read: Read):
    files = tree(["shard-0000/cat/0.png", "shard-0001/cat/1.png", "shard-0001/dog/2.png"])
    assert read(of_form("folder of tars", tmp_path, files), tmp_path)[:2] == (3, [0, 0, 1])


# Names


@every_reader
@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_zip_that_windows_wrote_keeps_its_classes(tmp_path, read: Read, compression):
    path = write_zip(tmp_path / "a.zip", tree([r"data\cat\0.png", r"data\dog\1.png"]), compression)
    assert read(str(path), tmp_path)[:2] == (2, [0, 1])


@every_reader
@pytest.mark.parametrize("name", ["run[v2]", "samples[0:2]", "a[b]c"])
def test_a_folder_whose_name_has_brackets_is_a_folder(tmp_path, read: Read, name):
    source = str(write_tree(tmp_path / name, tree(["0.png", "1.png"])))
    assert not is_step(source) and read(source, tmp_path).rows == 2


@every_reader
def test_pictures_that_lie_in_a_root_are_no_step(tmp_path, read: Read):
    source = str(write_tree(tmp_path / "exported", tree(["0.png", "1.png"])))
    (tmp_path / "dgflow.json").write_text("{}")
    assert read(source, tmp_path).rows == 2

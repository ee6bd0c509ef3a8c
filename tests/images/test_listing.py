"""Listings: every form of the same pictures gives the same rows, in any process, and a source that is cut or
changed is refused."""

import os
import socket
import zipfile
from dataclasses import replace
from pathlib import Path

import cloudpickle
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images.archives import by_class, cifar10_files, png, tar_bytes, write_tar, write_tree, write_zip

from dgflow.files.zips import read_member
from dgflow.images.changes import check_unchanged
from dgflow.images.discovery import list_images
from dgflow.images.listing import Changed, Listing
from dgflow.images.readers import OPEN_TARS, open_reader

CLASSES = ("ant", "bee", "cat")
ZIPS = {
    "zip": zipfile.ZIP_DEFLATED,
    "zip stored": zipfile.ZIP_STORED,
    "zip bzip2": zipfile.ZIP_BZIP2,
    "zip lzma": zipfile.ZIP_LZMA,
}


@pytest.fixture
def files(pixels) -> dict[str, bytes]:
    """Three classes of eight pictures; the order of the names is that of `pixels`."""
    return {f"{CLASSES[item // 8]}/{item % 8:02d}.png": png(image) for item, image in enumerate(pixels)}


def write(form: str, folder: Path, files: dict[str, bytes]) -> str:
    backwards = dict(reversed(files.items()))
    if form == "folder":
        path = write_tree(folder / "tree", backwards)
    elif form == "folder of tars":
        path = write_tree(
            folder / "tars", {f"{name}.tar": tar_bytes(inner) for name, inner in by_class(files).items()}
        )
    elif form == "folder of tgz":
        path = write_tree(
            folder / "tars",
            {f"{name}.tgz": tar_bytes(inner, "w:gz") for name, inner in by_class(files).items()},
        )
    elif form == "tar of tars":
        path = write_tar(
            folder / "a.tar",
            {f"{name}.tar": tar_bytes(inner) for name, inner in reversed(by_class(files).items())},
        )
    elif form.startswith("zip"):
        path = write_zip(folder / "a.zip", backwards, ZIPS[form])
    else:
        path = write_tar(folder / f"a.{form}", {"./" + name: data for name, data in backwards.items()})
    return str(path)


def same(found, expected) -> bool:
    """Whether these are those pixels, none of them an error."""
    images = list(found)
    return not any(isinstance(image, ValueError) for image in images) and np.array_equal(images, expected)


PICTURES = [
    "folder",
    "zip",
    "zip stored",
    "zip bzip2",
    "zip lzma",
    "tar",
    "tar.gz",
    "tgz",
    "tar of tars",
    "folder of tars",
    "folder of tgz",
]


def parquet(
    path: Path, pixels: np.ndarray, labels: np.ndarray, image: str = "image", label: str = "label"
) -> Path:
    cells = pa.array(
        [{"bytes": png(each), "path": None} for each in pixels],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({image: cells, label: labels}), path, row_group_size=5)
    return path


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
    again = cloudpickle.loads(cloudpickle.dumps(reader))  # one that has files open
    assert same(again.read([5]), pixels[[5]])


@pytest.mark.parametrize("form", PICTURES)
def test_a_listing_does_not_depend_on_where_the_source_lies(tmp_path, files, form):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = (list_images(write(form, tmp_path / name, files)) for name in ("one", "two"))
    if "gz" not in form:  # gzip notes the time: another size
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
    """Text in Parquet, vectors in `dataset.json`, one-hot rows in an npz."""
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


# What is cut, foreign or changed


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz", "tar of tars", "folder of tars", "folder of tgz"])
@pytest.mark.parametrize("kept", [0.3, 0.75])  # tars end in padding
def test_an_archive_that_is_cut_short_is_refused_before_anything_is_read(tmp_path, files, form, kept):
    source = Path(write(form, tmp_path, files))
    path = next(source.iterdir()) if source.is_dir() else source
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(ValueError, match=f"{path.name}.* cut short"):
        list_images(str(source))


def test_a_tar_that_ends_between_two_files_is_refused(tmp_path, files):
    path = Path(write("tar", tmp_path, files))
    path.write_bytes(path.read_bytes()[: 512 * 2 * 5])  # a header and one block of data each
    with pytest.raises(ValueError, match="no mark at its end"):
        list_images(str(path))


def test_a_damaged_byte_in_a_compressed_tar_is_found(tmp_path, files):
    path = Path(write("tar.gz", tmp_path, files))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="found a damaged one or one that is cut short"):
        list_images(str(path))


@pytest.mark.parametrize("form", ZIPS)
def test_a_damaged_picture_in_a_zip_is_found_by_its_checksum(tmp_path, files, pixels, form):
    source = write(form, tmp_path, files)
    listing = list_images(source)
    data = bytearray(Path(source).read_bytes())
    data[int(listing.columns["offset"][3]) + 30 + len("ant/03.png") + 20] ^= 1
    Path(source).write_bytes(data)
    broken, good = open_reader(source, listing).read([3, 4])
    assert isinstance(broken, ValueError) and "ant/03.png" in str(broken)
    assert same([good], pixels[[4]])


@pytest.mark.parametrize("form", ZIPS)
def test_a_member_that_unpacks_to_more_than_the_directory_says_is_broken(tmp_path, form):
    path = write_zip(tmp_path / "a.zip", {"0.png": bytes(10**6)}, ZIPS[form])
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("0.png")
    with open(path, "rb") as file, pytest.raises(ValueError, match="its checksum is not that"):
        read_member(file, member.header_offset, member.compress_size, 1000, member.CRC)


def test_a_broken_picture_is_an_answer_and_the_next_one_is_read(tmp_path, files, pixels):
    files["bee/01.png"] = b"no picture"
    for form in PICTURES:
        (tmp_path / form).mkdir()
        source = write(form, tmp_path / form, files)
        broken, good = open_reader(source, list_images(source)).read([9, 10])
        assert isinstance(broken, ValueError) and "bee/01.png" in str(broken)
        assert same([good], pixels[[10]])


@pytest.mark.parametrize("form", ["folder", "zip", "tar", "tar.gz", "tar of tars", "folder of tars"])
def test_a_source_that_has_changed_since_is_refused(tmp_path, files, form):
    source = write(form, tmp_path, files)
    listing = list_images(source)
    path = Path(source)
    for found in [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]:
        found.write_bytes(found.read_bytes() + b"more")
    with pytest.raises(
        Changed,
        match=r"expected [\d,]+ bytes at .*, as when it was listed, found [\d,]+: the data changed since",
    ):
        list(open_reader(source, listing).read([0]))


@pytest.mark.parametrize("form", ["folder", "zip", "tar", "folder of tars"])
def test_a_source_that_has_gone_since_is_refused(tmp_path, files, form):
    source = write(form, tmp_path, files)
    listing = list_images(source)
    path = Path(source)
    for found in [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]:
        os.unlink(found)
    with pytest.raises(
        ValueError,
        match=rf"{socket.gethostname()} cannot see /.*: put the data where every node sees it, such as s3://",
    ):
        list(open_reader(source, listing).read([0]))


def other(
    form: str, folder: Path, number: int, files: dict[str, bytes], pixels: np.ndarray, labels: np.ndarray
) -> str:
    """The source `number` of two of equal size whose content differs."""
    folder.mkdir()
    if form == "npz":
        np.savez(folder / "a.npz", pixels, labels)
        return str(folder / "a.npz")
    if form == "parquet":
        return str(parquet(folder / "a.parquet", pixels, labels))
    if form == "cifar":
        batches, _, _ = cifar10_files(binary=True)
        batches["cifar-10-batches-bin/data_batch_1.bin"] = batches["cifar-10-batches-bin/data_batch_1.bin"][
            :-1
        ] + bytes([number])
        return str(write_tree(folder / "a", batches))
    if form.startswith("zip"):
        return write(form, folder, {name: b"BM" + bytes(200) + bytes([number]) for name in files})
    return write(
        form, folder, {name.replace("0.png", f"{8 + number}.png"): b"BM" + bytes(200) for name in files}
    )


@pytest.mark.parametrize("form", ["tar", "tar.gz", "tar of tars", "npz", "cifar", "parquet"])
def test_other_content_of_the_same_size_is_refused_when_it_is_read(tmp_path, files, pixels, labels, form):
    sources = [
        other(form, tmp_path / str(number), number, files, pixels[:: 1 - 2 * number], labels)
        for number in range(2)
    ]
    listing = list_images(sources[0])
    if form in ("tar.gz", "parquet"):  # as if it had come out as long as the other
        listing = replace(listing, files=(("", Path(sources[1]).stat().st_size),))
    assert len({Path(source).stat().st_size for source in sources}) == 1 or form in ("tar.gz", "parquet")
    with pytest.raises(Changed, match="the data changed since"):
        list(open_reader(sources[1], listing).read(range(listing.rows)))


def test_parquet_that_has_changed_since_is_refused(tmp_path, pixels, labels):
    source = parquet(tmp_path / "a" / "0.parquet", pixels, labels)
    listing = list_images(str(source.parent))
    parquet(source, pixels[:20], labels[:20])
    with pytest.raises(Changed, match=r"0\.parquet"):
        list(open_reader(str(source.parent), listing).read([0]))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "found an empty folder"),
        (["a.txt", "b/c.txt"], "found 2 files of no known kind"),
        (
            ["a/0.png", "b.parquet"],
            r"found 1 images \(such as a/0\.png\), 1 \.parquet \(such as b\.parquet\)",
        ),
    ],
)
def test_a_folder_of_something_else_says_what_it_holds(tmp_path, names, says):
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match=says):
        list_images(str(write_tree(tmp_path / "a", dict.fromkeys(names, b"x"))))


@pytest.mark.parametrize("form", ["zip", "tar", "tgz"])
def test_an_archive_without_pictures_is_refused(tmp_path, form):
    with pytest.raises(ValueError, match=r"expected images \(\.png, .*found 1 other files"):
        list_images(write(form, tmp_path, {"a/readme.txt": b"x"}))


def test_an_archive_with_a_name_twice_is_refused(tmp_path, files):
    one, two = tar_bytes({"a/0.png": files["ant/00.png"]}), tar_bytes({"a/0.png": files["ant/01.png"]})
    (tmp_path / "a.tar").write_bytes(one[:1024] + two)
    with pytest.raises(ValueError, match=r"found a/0\.png twice"):
        list_images(str(tmp_path / "a.tar"))


def test_more_compressed_tars_than_a_worker_can_hold_are_refused(tmp_path):
    tgz = tar_bytes({"0.png": b"x"}, "w:gz")
    source = str(write_tree(tmp_path / "tars", {f"{number}.tgz": tgz for number in range(OPEN_TARS + 1)}))
    with pytest.raises(
        ValueError,
        match=r"at most 256 compressed tars in .*, found 257.*recompress them as plain \.tar, or unpack them",
    ):
        list_images(source)


@pytest.mark.parametrize("form", [*PICTURES, "npz", "parquet", "cifar"])
def test_a_source_as_it_was_is_unchanged_and_one_that_is_gone_is_no_change(
    tmp_path, files, pixels, labels, form
):
    source = other(form, tmp_path / "a", 0, files, pixels, labels)
    listing = Listing.decoded(list_images(source).encoded())
    check_unchanged(source, listing)
    (tmp_path / "a").rename(tmp_path / "b")
    check_unchanged(source, listing)


@pytest.mark.parametrize("form", ["zip", "zip stored", "npz", "parquet"])
def test_other_content_of_the_same_size_is_seen_from_checksums_and_footers(
    tmp_path, files, pixels, labels, form
):
    sources = [
        other(form, tmp_path / str(number), number, files, pixels[:: 1 - 2 * number], labels)
        for number in range(2)
    ]
    listing = replace(list_images(sources[0]), files=(("", Path(sources[1]).stat().st_size),))
    with pytest.raises(
        Changed, match="expected the data at .* as when it was listed, found files: (1|24) changed"
    ):
        check_unchanged(sources[1], listing)


def test_files_that_are_more_fewer_and_others_are_counted_and_the_first_named(tmp_path, files):
    source = write("folder", tmp_path, files)
    listing = list_images(source)
    os.unlink(f"{source}/cat/07.png")
    write_tree(Path(source), {"bee/01.png": b"another size", "ant/new.png": b"x", "cat/new.png": b"x"})
    with pytest.raises(Changed, match=r"found files: 2 more, 1 fewer, 1 changed \(the first ant/new\.png\)"):
        check_unchanged(source, listing)


def test_other_labels_beside_the_same_pictures_are_a_change(tmp_path, files):
    def labelled(label: int) -> bytes:
        return ('{"labels": [' + ", ".join(f'["{name}", {label}]' for name in files) + "]}").encode()

    source = write("folder", tmp_path, files | {"dataset.json": labelled(3)})
    listing = list_images(source)
    check_unchanged(source, listing)
    (Path(source) / "dataset.json").write_bytes(labelled(4))
    with pytest.raises(Changed, match=r"1 changed \(the first dataset\.json\)"):
        check_unchanged(source, listing)


@pytest.mark.parametrize("source", ["nowhere", "nowhere.npz", "nowhere.tar"])
def test_a_source_that_is_not_there_is_named(source):
    with pytest.raises(ValueError, match=f"expected images at {source}, found nothing there"):
        list_images(source)


@pytest.mark.parametrize("form", ["folder", "zip", "tar", "folder of tars"])
def test_the_same_forms_are_read_from_s3(tmp_path, s3_url, files, pixels, form):
    from dgflow.store.open import open_store

    local = Path(write(form, tmp_path, files))
    store = open_store(s3_url)
    for path in [each for each in local.rglob("*") if each.is_file()] if local.is_dir() else [local]:
        store.put(path.relative_to(local.parent).as_posix(), path.read_bytes())
    source = f"{s3_url}/{local.name}"
    listing = list_images(source)
    assert listing.encoded() == list_images(str(local)).encoded()
    assert same(open_reader(source, listing).read([23, 0, 7]), pixels[[23, 0, 7]])

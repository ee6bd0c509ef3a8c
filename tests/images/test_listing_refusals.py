"""Sources of images that are truncated, of another form, or changed since they were listed."""

import os
import socket
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from images.archives import cifar10_files, tar_bytes, write_tree, write_zip
from images.listings import PICTURES, ZIPS, files, parquet, same, write

from dgflow.files.zips import read_member
from dgflow.images.changes import check_unchanged
from dgflow.images.discovery import list_images
from dgflow.images.listing import Changed, Listing
from dgflow.images.readers import OPEN_TARS, open_reader

__all__ = ["files"]


# Truncated, foreign and changed sources


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz", "tar of tars", "folder of tars", "folder of tgz"])
@pytest.mark.parametrize("kept", [0.3, 0.75])  # tars end in padding
def test_an_archive_that_is_cut_short_is_refused_before_anything_is_read(tmp_path, files, form, kept):
    source = Path(write(form, tmp_path, files))
    path = next(source.iterdir()) if source.is_dir() else source
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(ValueError, match=f"{path.name}.* truncated"):
        list_images(str(source))


def test_a_tar_that_ends_between_two_files_is_refused(tmp_path, files):
    path = Path(write("tar", tmp_path, files))
    path.write_bytes(path.read_bytes()[: 512 * 2 * 5])  # a header and one block of data each
    with pytest.raises(ValueError, match="no end-of-archive block"):
        list_images(str(path))


def test_a_damaged_byte_in_a_compressed_tar_is_found(tmp_path, files):
    path = Path(write("tar.gz", tmp_path, files))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="found a damaged or truncated one"):
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
    with open(path, "rb") as file, pytest.raises(ValueError, match="its checksum differs"):
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
    message = "cannot reach /.*: put the data where every node can reach it, such as s3://"
    with pytest.raises(ValueError, match=f"{socket.gethostname()} {message}"):
        list(open_reader(source, listing).read([0]))


def other(
    form: str, folder: Path, number: int, files: dict[str, bytes], pixels: np.ndarray, labels: np.ndarray
) -> str:
    """Returns the source `number` of two of equal size whose content differs."""
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
    if form in ("tar.gz", "parquet"):  # as if its size had come out equal
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
        ValueError, match=r"at most 256 compressed tars in .*, found 257.*store them as uncompressed \.tar"
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

"""Archives and pickles that try to exhaust a machine's memory, disk or stack."""

import gzip
import io
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from images.archives import cifar10_files, png, tar_bytes, write_tar, write_tree, write_zip

from dgflow.files import tars, zips
from dgflow.files.locations import LocalLocation
from dgflow.images.cifar import load_batch
from dgflow.images.discovery import list_images
from dgflow.images.sources import open_images

PICTURE = png(np.zeros((4, 4, 3), np.uint8))


def peak(call: Callable[[], object]) -> int:
    """Returns the maximum number of bytes that Python's allocators hold during a call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02r\xff\xff\xff\x7fN.",  # an index in the memo
        b"\x80\x02T\xff\xff\xff\x7f.",  # the length of a string
        b"\x80\x02\x8b\xff\xff\xff\x7f.",  # of a number
        b"\x96\0\0\0\x7f\0\0\0\0",  # of an array of bytes
        b"\x80\x04\x95\0\0\0\x7f\0\0\0\0}.",  # of a frame
    ],
)
def test_a_batch_of_cifar_that_claims_gigabytes_takes_none(tmp_path, data):
    def refused() -> None:
        with pytest.raises(ValueError, match="expected a batch of CIFAR"):
            load_batch(data, "here")
        with pytest.raises(ValueError, match=r"data_batch_1.*found an unusable file"):
            list_images(str(folder))

    files = {name: b"" for name in cifar10_files(1)[0]} | {"cifar-10-batches-py/data_batch_1": data}
    folder = write_tree(tmp_path / "a", files)
    assert peak(refused) < 2**22


@pytest.mark.parametrize("suffix", ["tar.gz", "tgz"])
def test_a_compressed_tar_that_grows_as_no_pictures_do_is_refused(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(tars, "_SMALL", 2**20)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(gzip.compress(tar_bytes({"0.png": PICTURE + bytes(2**23)}), 9))
    says = rf"at most [\d,]+ bytes in the tar of .*{path.name}.*give the \.tar"
    with pytest.raises(ValueError, match=says):
        list_images(str(path))
    monkeypatch.undo()
    assert list_images(str(path)).rows == 1  # 8 MiB are accepted


def nested(levels: int) -> bytes:
    data = tar_bytes({"0.png": PICTURE})
    for _ in range(levels - 1):
        data = tar_bytes({"a.tar": data})
    return data


def test_tars_in_tars_have_a_bound(tmp_path):
    (tmp_path / "a.tar").write_bytes(nested(4))
    assert list_images(str(tmp_path / "a.tar")).rows == 1
    (tmp_path / "a.tar").write_bytes(nested(40))
    with pytest.raises(ValueError, match="tars in tars at most 4 levels deep, found more at .*; unpack it"):
        list_images(str(tmp_path / "a.tar"))


def test_a_header_of_megabytes_is_not_read(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("0.png")
        member.pax_headers = {"comment": "x" * 2**22}
        member.size = len(PICTURE)
        tar.addfile(member, io.BytesIO(PICTURE))
    with pytest.raises(ValueError, match="expected a whole tar at .*a header of"):
        list_images(str(path))


@pytest.mark.parametrize("form", ["folder", "zip", "tar"])
def test_a_picture_of_too_many_bytes_is_broken_and_the_next_is_read(tmp_path, form, monkeypatch):
    monkeypatch.setattr(zips, "MOST", 1000)
    files = {"a.png": PICTURE + bytes(1000), "b.png": PICTURE}
    make: dict[str, Callable[[], Path]] = {
        "folder": lambda: write_tree(tmp_path / "a", files),
        "zip": lambda: write_zip(tmp_path / "a.zip", files),
        "tar": lambda: write_tar(tmp_path / "a.tar", files),
    }
    images = open_images(str(make[form]()))
    assert len(images.read(1, 2)) == 1
    with pytest.raises(ValueError, match=r"a\.png, found 1,0\d\d bytes, more than the maximum of 1,000"):
        images.read(0, 1)


def test_a_zip_that_says_that_a_member_has_gigabytes_is_not_inflated(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.png", bytes(2**20))
    member = zips.members(LocalLocation(str(path)), "a.zip")[0]
    with open(path, "rb") as file, pytest.raises(ValueError, match=r"2,147,483,648 bytes, more than"):
        zips.read_member(file, member.offset, member.stored, 2**31, member.crc)


@pytest.mark.parametrize("name", ["a.npz", "a.zip", "a.tar", "a.parquet", "folder/a.png", "folder/a.parquet"])
def test_a_pointer_of_git_lfs_is_told_from_a_damaged_file(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12\n")
    source = file if file.parent == tmp_path else file.parent
    with pytest.raises(ValueError, match=rf"{file.name}, found a Git LFS pointer instead; .*git lfs pull"):
        list_images(str(source))

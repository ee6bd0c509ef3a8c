"""CIFAR's own archives: pixels and labels survive packed and unpacked, and no pickle runs code."""

import os
import pickle
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
from images.archives import cifar10_files, cifar100_files, cifar_records, python2_batch, write_tar, write_tree

from dgflow.images.cifar import load_batch
from dgflow.images.discovery import list_images
from dgflow.images.listing import Listing
from dgflow.images.readers import open_reader

FORMS = [(cifar10_files, False), (cifar10_files, True), (cifar100_files, False), (cifar100_files, True)]


@pytest.mark.parametrize("packed", [True, False], ids=["archive", "folder"])
@pytest.mark.parametrize(
    ("files_of", "binary"), FORMS, ids=["10 python", "10 binary", "100 python", "100 binary"]
)
def test_every_archive_gives_the_training_images_in_order(tmp_path, files_of, binary, packed):
    files, images, labels = files_of(binary=binary)
    source = str(
        write_tar(tmp_path / "cifar.tar.gz", files) if packed else write_tree(tmp_path / "cifar", files)
    )
    listing = Listing.decoded(list_images(source).encoded())
    assert (
        listing.rows == len(images)
        and listing.labels is not None
        and listing.labels.tolist() == labels.tolist()
    )
    reader = cloudpickle.loads(cloudpickle.dumps(open_reader(source, listing)))
    backwards = list(range(len(images)))[::-1]
    assert np.array_equal(np.stack(list(reader.read(backwards))), images[::-1])


def test_archive_and_folder_have_the_same_digest_and_another_pixel_changes_it(tmp_path):
    files, _, _ = cifar10_files()
    packed = list_images(str(write_tar(tmp_path / "a.tgz", files))).digest
    assert packed == list_images(str(write_tree(tmp_path / "a", files))).digest
    files["cifar-10-batches-py/data_batch_3"] = python2_batch(*cifar_records(6, 10, 99), b"labels")
    assert list_images(str(write_tree(tmp_path / "b", files))).digest != packed


class _Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_something_is_refused_by_name_and_runs_nothing(tmp_path):
    data = pickle.dumps({"data": _Hostile(tmp_path / "ran")}, protocol=2)
    with pytest.raises(ValueError, match=r"found an unusable file \(it names (posix|nt)\.mkdir"):
        load_batch(data, "x")
    pickle.loads(data)
    assert (tmp_path / "ran").exists()  # shows that the pickle was live


@pytest.mark.parametrize(
    "name", [b"builtins\neval\n", b"numpy\nload\n", b"copyreg\n_reconstructor\n", b"numpy\ncore.multiarray\n"]
)
def test_other_globals_are_refused(name):
    records, labels = cifar_records(2, 10, 0)
    with pytest.raises(ValueError, match="it names " + name.decode().strip().replace("\n", r"\.")):
        load_batch(python2_batch(records, labels, b"labels", name), "x")


def test_what_a_pickle_does_to_a_stand_in_ends_with_it():
    """The pickle sets attributes of the class: a later file is read as if it had not existed."""
    hostile = b"\x80\x02cnumpy\nndarray\n(}U\x04argsK\x01s}U\x0b__setstate__K\x01stb."
    with pytest.raises(ValueError, match="a batch of CIFAR"):
        load_batch(hostile, "x")
    records, labels = cifar_records(2, 10, 0)
    assert np.array_equal(load_batch(python2_batch(records, labels, b"labels"), "x")["data"], records)


@pytest.mark.parametrize("cut", [10, 3000, 6 * 3072])
def test_a_batch_that_is_cut_short_is_named(tmp_path, cut):
    files, _, _ = cifar10_files()
    files["cifar-10-batches-py/data_batch_4"] = files["cifar-10-batches-py/data_batch_4"][:cut]
    with pytest.raises(ValueError, match="expected a batch of CIFAR at .*data_batch_4"):
        list_images(str(write_tree(tmp_path / "a", files)))


def test_a_binary_batch_that_is_cut_short_is_named(tmp_path):
    files, _, _ = cifar10_files(binary=True)
    files["cifar-10-batches-bin/data_batch_2.bin"] = files["cifar-10-batches-bin/data_batch_2.bin"][:-1]
    with pytest.raises(
        ValueError, match=r"records of 3,073 bytes in .*data_batch_2\.bin, found 18,437 bytes"
    ):
        list_images(str(write_tree(tmp_path / "a", files)))


def test_a_missing_batch_is_named(tmp_path):
    files, _, _ = cifar10_files()
    del files["cifar-10-batches-py/data_batch_5"]
    with pytest.raises(ValueError, match="but data_batch_5 is missing"):
        list_images(str(write_tree(tmp_path / "a", files)))


def test_a_label_outside_the_set_is_refused(tmp_path):
    files, _, _ = cifar10_files()
    records, labels = cifar_records(6, 10, 0)
    files["cifar-10-batches-py/data_batch_1"] = python2_batch(records, labels + 5, b"labels")
    with pytest.raises(ValueError, match="expected labels 0 to 9 in .*data_batch_1"):
        list_images(str(write_tree(tmp_path / "a", files)))

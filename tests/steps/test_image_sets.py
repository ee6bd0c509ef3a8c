"""A worker's reads of an image set whose step it received, and its refusals."""

import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images.archives import png, write_tar, write_tree
from steps.judging import INCEPTION

from dgflow.images.listing import Changed
from dgflow.images.sources import FileImages
from dgflow.steps.judging.features import Features
from dgflow.steps.sources import image_set
from dgflow.steps.sources.image_set import ImageSet
from dgflow.store.s3 import S3Store
from dgflow.store.shards import encode_shard

ROWS = 310
FORMS = ("folder", "zip", "tar", "npz", "parquet", "pictures.parquet")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (ROWS, 48, 48, 3), np.uint8)


@pytest.fixture(scope="module")
def sources(pixels: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes the same images in every form, 2 MB each; PNGs of noise, stored uncompressed."""
    folder = tmp_path_factory.mktemp("sets")
    pictures = {f"{row:04d}.png": png(image) for row, image in enumerate(pixels)}
    write_tree(folder / "folder", pictures)
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        for name, data in pictures.items():
            archive.writestr(name, data)
    write_tar(folder / "set.tar", pictures)
    np.savez(folder / "set.npz", pixels)
    (folder / "set.parquet").write_bytes(encode_shard({"index": np.arange(ROWS), "image": pixels}))
    table = pa.table({"image": list(pictures.values())})
    pq.write_table(table, folder / "set.pictures.parquet", row_group_size=10, compression="none")
    return folder


def source(folder: Path, form: str) -> Path:
    return folder / ("folder" if form == "folder" else f"set.{form}")


def sent(images: ImageSet) -> FileImages:
    """Returns the reader of another process, to which the step was sent."""
    step = pickle.loads(pickle.dumps(Features(samples=images, network=INCEPTION, front_end="adm")))
    assert isinstance(step.samples, ImageSet)
    reader = step.samples.open()
    assert isinstance(reader, FileImages)
    return reader


class Reads:
    """Counts the files below a folder that this process opens, and the bytes that it reads from them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files, self.bytes, below = 0, 0, str(folder)
        opened, pread, whole = os.open, os.pread, Path.read_bytes

        def count_open(path, *arguments, **options):
            self.files += str(path).startswith(below)
            return opened(path, *arguments, **options)

        def count_pread(*arguments):
            data = pread(*arguments)
            self.bytes += len(data)
            return data

        def count_whole(path):
            data = whole(path)
            self.files += str(path).startswith(below)
            self.bytes += len(data)
            return data

        monkeypatch.setattr(os, "open", count_open)
        monkeypatch.setattr(os, "pread", count_pread)
        monkeypatch.setattr(Path, "read_bytes", count_whole)


@pytest.mark.parametrize("form", FORMS)
def test_a_worker_opens_the_files_of_its_rows_alone(form, sources, pixels, monkeypatch):
    """There are 310 images and four workers with 10 rows each: 3 % of the images per worker, plus the rest of
    a row group or a buffer."""
    images = ImageSet.at(str(source(sources, form)))
    image_set._opened.cache_clear()
    reads = Reads(sources, monkeypatch)
    for worker in range(4):
        rows = sent(images).read(10 * worker, 10 * worker + 10)
        np.testing.assert_array_equal(np.stack(rows), pixels[10 * worker : 10 * worker + 10])
    everything = ROWS * pixels[0].nbytes
    if form == "folder":
        assert reads.files == 40 and reads.bytes < 0.15 * everything
    elif form == "parquet":  # of one row group
        assert reads.files <= 8 and reads.bytes < 4.2 * everything
    else:
        assert reads.files <= 8 and reads.bytes < 0.5 * everything
    assert image_set._opened.cache_info().currsize == 0  # nothing listed it again


@pytest.mark.parametrize("form", FORMS)
def test_a_worker_refuses_a_row_that_changed_since_it_was_listed_and_names_it(
    form, sources, pixels, tmp_path
):
    """Changes pixels without changing the number of bytes, below whatever checksum the form has."""
    changed = source(tmp_path, form)
    (shutil.copytree if form == "folder" else shutil.copy)(source(sources, form), changed)
    reader = sent(ImageSet.at(str(changed)))
    file = changed / "0105.png" if form == "folder" else changed
    data = file.read_bytes()
    part = pixels[105, 20, 3:40].tobytes()
    where = data.find(part if part in data else png(pixels[105])[2_000:2_050])
    assert where > 0
    file.write_bytes(data[:where] + bytes(50) + data[where + 50 :])
    name = {"npz": "image 105", "parquet": "rows? ", "pictures.parquet": "row 105"}.get(form, "0105.png")
    with pytest.raises(ValueError, match=rf"expected .*{name}.*, found") as refused:
        reader.read(100, 110)
    assert str(changed) in str(refused.value)
    if form in ("folder", "tar", "npz", "pictures.parquet"):
        assert isinstance(refused.value, Changed)
    if form != "parquet":
        np.testing.assert_array_equal(np.stack(reader.read(200, 210)), pixels[200:210])


def test_a_file_that_is_gone_is_named(sources, tmp_path):
    shutil.copytree(sources / "folder", tmp_path / "folder")
    reader = sent(ImageSet.at(str(tmp_path / "folder")))
    (tmp_path / "folder" / "0105.png").unlink()
    with pytest.raises(ValueError, match=r"cannot reach .*0105\.png"):
        reader.read(100, 110)


def test_a_set_that_a_root_describes_is_read_whole_and_compared(sources, pixels):
    images = ImageSet.at(str(sources / "folder"))
    described = ImageSet.model_validate(images.model_dump())
    np.testing.assert_array_equal(np.stack(described.open().read(0, 3)), pixels[:3])
    other = described.model_copy(update={"digest": 64 * "0"})
    with pytest.raises(ValueError, match="the source has changed: run again"):
        other.open()


@pytest.mark.parametrize(("form", "requests"), [("folder", 10), ("zip", 4), ("npz", 7)])
def test_a_worker_makes_few_requests_to_s3(form, requests, sources, pixels, s3_url, monkeypatch):
    """One GET per picture; one HEAD, and ranges of one MiB, per archive."""
    store = S3Store(s3_url.removeprefix("s3://"))
    here = source(sources, form)
    for file in sorted(here.iterdir())[:40] if form == "folder" else [here]:
        store.put(f"{here.name}/{file.name}" if form == "folder" else here.name, file.read_bytes())
    images = ImageSet.at(f"{s3_url}/{here.name}")
    made, request = [], S3Store.request

    def count(self, attempted, *arguments, **options):
        made.append(attempted)
        return request(self, attempted, *arguments, **options)

    monkeypatch.setattr(S3Store, "request", count)
    np.testing.assert_array_equal(np.stack(sent(images).read(20, 30)), pixels[20:30])
    assert len(made) <= requests, made

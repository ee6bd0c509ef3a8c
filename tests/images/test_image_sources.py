"""Every form of images: the pixels that PIL, numpy and pyarrow see, in the right order, with errors that name
the fault."""

import subprocess
import sys
import zipfile

import numpy as np
import pytest
from images.pictures import read_all, write_pictures
from PIL import Image

from dgflow.images.sources import open_images
from dgflow.store.shards import encode_shard, rows_sha256

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
        (dict(arr_0=np.zeros((2, 4, 4, 4), np.uint8)), r"save images\[\.\.\., :3\]"),
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
        ValueError, match=r"expected an npz at .*a\.npz, found another kind of file or a truncated one"
    ):
        open_images(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_bit_in_an_npz_is_found_by_its_digest(tmp_path, pixels, save):
    save(tmp_path / "a.npz", pixels)
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[1000] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"arr_0 in .*a\.npz, found a damaged one"):
        _ = open_images(str(tmp_path / "a.npz")).digest


def test_rows_of_a_large_npz_are_read_without_the_rest(tmp_path):
    """Reading three rows of a 300 MB file adds less than 30 MB of memory."""
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

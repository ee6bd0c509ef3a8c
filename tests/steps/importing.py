"""Small imports of images, for the tests of ImportImages."""

import uuid
from typing import Any, ClassVar

import numpy as np
import pytest
from inprocess import complete
from PIL import Image

from dgflow import ImportImages
from dgflow.engine.root import Root
from dgflow.specs.bound import Bound
from dgflow.specs.graph import graph
from dgflow.specs.step import ResultStep, Slice
from dgflow.store.memory import MemoryStore
from dgflow.store.objects import ObjectStore


class Take(ResultStep):
    """A consumer that reads a slice."""

    suffix: ClassVar[str] = ".txt"

    images: Slice

    def compute(self, inputs, spread, store) -> bytes:
        return b"taken"


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(uuid.uuid4().hex)


def imported(part: Slice, store: ObjectStore):
    """Returns the rows of a slice, built as in a run."""
    return complete(Take(images=part), store).rows("images")


def rows(step: ImportImages, start: int, stop: int, store: ObjectStore | None = None):
    """Returns rows as the step's own builder makes them."""
    return step.shard_builder(bound(step, store or MemoryStore(uuid.uuid4().hex)))(start, stop)


def bound(step: ImportImages, store: ObjectStore) -> Bound:
    """Completes and returns the inputs of the step."""
    known: dict[str, Bound | None] = {}
    for reference in step.inputs().values():
        complete(Take(images=reference) if isinstance(reference, Slice) else reference.step, store)
        for node in graph(reference.step):
            known[node.step.fingerprint] = Root(store).bind(node.step, known)
    found = Root(store).bind(step, known)
    assert found is not None
    return found


@pytest.fixture
def folder(tmp_path):
    """Writes three classes of four 4 x 4 images; every pixel of image k of class c is 50 c + k."""
    for number, name in enumerate(["ant", "bee", "cat"]):
        (tmp_path / "images" / name).mkdir(parents=True)
        for item in range(4):
            Image.fromarray(np.full((4, 4, 3), 50 * number + item, np.uint8)).save(
                tmp_path / "images" / name / f"{item}.png"
            )
    return tmp_path / "images"


def step_of(source, **fields) -> ImportImages:
    given: dict[str, Any] = dict(source=str(source), num_classes=3, image_size=4, shard_size=5)
    return ImportImages(**(given | fields))

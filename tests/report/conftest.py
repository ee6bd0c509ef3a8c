"""Roots that several tests of this folder read; each test has its own."""

import pytest
from report.fake_root import UNFINISHED, fill, new_store, recipe, write_source


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "digits.npz")


@pytest.fixture
def finished(source):
    target, store = recipe(source=source), new_store()
    fill(target, store)
    return target, store


@pytest.fixture
def unfinished(source):
    """Returns a root in which shard 1 of one guided step is missing, and so everything that needs it."""
    target, store = recipe(source=source), new_store()
    fill(target, store, leave_out=[(UNFINISHED, 1)])
    return target, store

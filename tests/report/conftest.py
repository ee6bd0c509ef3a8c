"""Roots that several tests of this folder look at; each test has its own."""

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
    """Shard 1 of one guided step is missing, and so all that needs it."""
    target, store = recipe(source=source), new_store()
    fill(target, store, leave_out=[(UNFINISHED, 1)])
    return target, store

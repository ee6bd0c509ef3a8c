"""Stored features of samples and of a reference, for the tests of Measure, Statistics and Evaluate."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from steps.judging import image_set, judged, rows_of

from dgflow.metrics.protocols import PROTOCOLS
from dgflow.steps.sources.image_set import StatisticsFile
from dgflow.store.memory import MemoryStore

SAMPLES, REFERENCE = image_set("samples.npz", 240), image_set("reference", 200)
FAKE, REAL = rows_of(1, 240), rows_of(2, 200)
NUMBERS = itertools.count()


@pytest.fixture
def store():
    """A store with the features of SAMPLES and REFERENCE."""
    store = MemoryStore(f"measure-{next(NUMBERS)}")
    judged(store, SAMPLES, FAKE)
    judged(store, REFERENCE, REAL)
    return store


@pytest.fixture
def small_protocols(monkeypatch):
    """Sets protocols for few images: 60 of the reference, 4 splits, 7 subsets of 50, and seed ranges of 40
    samples."""

    def change(name, **fields):
        monkeypatch.setitem(PROTOCOLS, name, replace(PROTOCOLS[name], **fields))

    change("adm", manifold_images=60, split_size=60, kid_subsets=7, kid_subset_size=50)
    change("edm", samples=40, seed_ranges=((0, 40), (40, 80), (80, 120)))


def statistics_file(path, *, seed=5, width=6, spatial=3, known=True):
    """Returns a file of statistics: if `known`, as `StatisticsFile.at` makes it; else one whose widths were
    not read."""
    arrays = {}
    for place, (mean, covariance, size) in enumerate((("mu", "sigma", width), ("mu_s", "sigma_s", spatial))):
        if size:
            random = np.random.default_rng([seed, place])
            arrays |= {mean: random.random(size), covariance: np.diag(random.random(size)).astype(np.float32)}
    np.savez(path, **arrays)
    made = StatisticsFile.at(str(path))
    return made if known else StatisticsFile(source=made.source, digest=made.digest)

"""Passes over stored features: the same bits for any division into shards, any workers, and any order of
results."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from metrics.in_memory import frechet_standard_error, inception_score, kernel_distance, precision_recall
from steps.judging import bound, rows_of, scattered

from dgflow.metrics import precision_recall as in_memory
from dgflow.metrics.frechet import Gaussian, Moments, frechet_distance
from dgflow.metrics.frechet_error import FrechetInfluence
from dgflow.metrics.inception_score import InceptionScore
from dgflow.specs.step import here
from dgflow.steps.judging import feature_passes
from dgflow.steps.judging.feature_passes import Population, influence, kernel_distances, neighbours, summed
from dgflow.store.memory import MemoryStore

# Torch warns of read-only arrays, such as those that Ray returns.
pytestmark = pytest.mark.filterwarnings("error:.*not writable")

REAL, FAKE = rows_of(1, 2_300), rows_of(2, 2_600)
REFERENCE = Gaussian(Moments.of(REAL["features"]).mean, Moments.of(REAL["features"]).covariance)
SHARD_SIZES = (37, 500, 1000, 2_600)  # 37: smaller than every piece, and divides none
SPREADS = {"here": here, "two workers": scattered(1, 2), "five workers": scattered(2, 5)}
COMPARED = 600, 700  # of the reals and the fakes, in neighbours: 26 pieces of 50 queries


@pytest.fixture(scope="module", params=SHARD_SIZES, ids=lambda size: f"shards of {size}")
def stored(request):
    return bound(MemoryStore("passes"), request.param, samples=FAKE, reference=REAL)


@pytest.fixture(params=SPREADS)
def spread(request, monkeypatch):
    monkeypatch.setattr(feature_passes, "SUMMED", 1000)
    monkeypatch.setattr(feature_passes, "QUERIES", 50)
    return SPREADS[request.param]


@pytest.fixture
def small_blocks(monkeypatch):
    """Reduces OpenAI's blocks of 10,000 rows to 300."""
    monkeypatch.setattr(in_memory, "BLOCK_ROWS", 300)
    monkeypatch.setattr(feature_passes, "BLOCK_ROWS", 300)


def sums_of(stored, spread, columns=("features", "spatial", "logits"), split_size=1000):
    return summed(stored, "samples", 2_600, columns, split_size, spread)


def populations(stored, real=COMPARED[0], fake=COMPARED[1]):
    return Population(stored, "reference", real), Population(stored, "samples", fake)


@cache
def neighbours_in_memory(k=3):
    return precision_recall(REAL["features"][: COMPARED[0]], FAKE["features"][: COMPARED[1]], k)


def test_moments_have_the_bits_of_one_pass_over_the_rows_in_memory(stored, spread):
    sums = sums_of(stored, spread)
    for column in ("features", "spatial"):
        found, expected = sums.moments[column].total(3), Moments.of(FAKE[column])
        assert found.n == expected.n
        np.testing.assert_array_equal(found.sum, expected.sum)
        np.testing.assert_array_equal(found.outer, expected.outer)


def test_the_frechet_distance_and_its_error_are_those_of_the_rows_in_memory(stored, spread):
    moments = sums_of(stored, spread).moments["features"].total()
    assert frechet_distance(moments, REFERENCE) == frechet_distance(Moments.of(FAKE["features"]), REFERENCE)
    found = influence(
        stored, "samples", 2_600, "features", FrechetInfluence.of(moments, REFERENCE), spread
    ).total(3)
    assert found.standard_error == frechet_standard_error(FAKE["features"], REFERENCE)


@pytest.mark.parametrize("split_size", [1000, 800])
def test_the_inception_score_is_that_of_the_logits_in_memory(stored, spread, split_size):
    sums = sums_of(stored, spread, ("logits",), split_size)
    assert InceptionScore.of(sums.scores.total()) == inception_score(FAKE["logits"], split_size)


def test_facts_of_the_images_come_in_the_order_of_their_rows(stored, spread):
    sums = sums_of(stored, spread, ())
    for column in ("label", "constant", "pixels"):
        np.testing.assert_array_equal(sums.fact(column), FAKE[column])


def test_precision_and_recall_are_those_of_the_rows_in_memory(stored, spread):
    real, fake = populations(stored)
    assert neighbours(real, fake, 3, "exact", spread) == neighbours_in_memory()


def test_rows_that_are_too_many_to_keep_give_the_same_neighbours(stored, monkeypatch):
    monkeypatch.setattr(feature_passes, "QUERIES", 250)
    monkeypatch.setattr(feature_passes, "KEPT", 1000)
    real, fake = populations(stored)
    assert neighbours(real, fake, 5, "exact", scattered(0, 1)) == neighbours_in_memory(5)


def test_kernel_distances_are_those_of_the_rows_in_memory(stored, spread):
    found = kernel_distances(*populations(stored, 2_300, 2_600), 25, 100, 2020, spread)
    assert (
        tuple(found.tolist()) == kernel_distance(REAL["features"], FAKE["features"], 25, 100, 2020).per_subset
    )


def test_held_rows_are_those_at_the_positions(stored, spread):
    positions = np.sort(np.random.default_rng(0).permutation(2_300)[:150])
    positions = positions[(positions < 1000) | (positions >= 2000)]  # a whole item without any position
    found = Population.at(positions, stored, "reference", spread)
    assert found.rows == len(positions)
    np.testing.assert_array_equal(found.block(0, found.rows), REAL["features"][positions])


def test_neighbours_of_held_rows_are_those_of_the_rows_in_memory(stored, spread):
    positions = np.arange(0, 2_300, 5)
    real = Population.at(positions, stored, "reference", spread)
    expected = precision_recall(REAL["features"][positions], FAKE["features"][: COMPARED[1]])
    assert neighbours(real, populations(stored)[1], 3, "exact", spread) == expected


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("shard_size", [37, 1000])
@pytest.mark.parametrize("name", SPREADS)
def test_openais_rounding_is_that_of_the_rows_in_memory(name, shard_size):
    # Of the blocks of 300, some overflow float16 and some do not, and rounding makes ties: another division
    # gives other numbers.
    real, fake = (rows["features"][:count] + 4 for rows, count in ((REAL, 650), (FAKE, 700)))
    real[5], fake[310] = 400.0, 500.0
    stored = bound(
        MemoryStore(f"rounding {shard_size}".replace(" ", "-")),
        shard_size,
        samples=_only(fake),
        reference=_only(real),
    )
    sides = Population(stored, "reference", len(real)), Population(stored, "samples", len(fake))
    expected = precision_recall(real, fake, distances="openai-float16")
    assert expected != precision_recall(real, fake)
    assert neighbours(*sides, 3, "openai-float16", SPREADS[name]) == expected


def _only(features):
    return {"features": features}


def test_memory_does_not_grow_with_the_rows():
    few, many = _peaks(4_000, 16_000)
    assert many - few < 60, (
        f"expected a peak within 60 MB of the {few:.0f} MB of 4,000 rows, found {many:.0f} MB of 16,000"
    )


def _peaks(few: int, many: int) -> list[float]:
    """Returns the peak memory in MB of sums and neighbours over that many stored rows of 256 features, and
    then over `many` rows, in a separate process."""
    program = f"""
import resource
import sys
import tempfile

sys.path.insert(0, {str(Path(__file__).resolve().parents[1])!r})
import numpy as np
from dgflow.specs.bound import Bound, BoundRows
from dgflow.steps.judging.feature_passes import Population, neighbours, summed
from dgflow.specs.step import here
from dgflow.store.open import open_store
from dgflow.store.step_store import StepStore


def stored(store, name, rows):
    steps, facts = StepStore(store, "features", name * 64), dict(seconds=0, device="cpu", versions={{}})
    for number, start in enumerate(range(0, rows, 500)):
        random = np.random.default_rng([ord(name), number])
        index = np.arange(start, start + 500)
        columns = dict(index=index, pixels=index, label=np.zeros(500, int), constant=np.zeros(500, bool))
        columns["features"] = random.gamma(0.5, 0.8, (500, 256)).astype(np.float32)
        steps.write_shard(number, columns, start=start, stop=start + 500, inputs={{}}, **facts)
    done = steps.done("shards", {{}})
    return BoundRows(steps, steps.seal(0, rows, {{}}, [done[number] for number in sorted(done)]), 0, rows)


for rows in ({few}, {many}):
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        bound = Bound({{"samples": stored(store, "a", rows), "reference": stored(store, "b", 1000)}})
        assert summed(bound, "samples", rows, ["features"], 5000, here).moments["features"].total().n == rows
        neighbours(Population(bound, "reference", 1000), Population(bound, "samples", rows), 3, "exact", here)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300
    )
    return [float(line) for line in found.stdout.splitlines()]

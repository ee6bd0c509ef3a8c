"""Sums of blocks: one total whatever the partition and the order of arrival, missing and repeated blocks
found, few nodes."""

import pickle
from functools import reduce
from math import fsum
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgflow.metrics.block_sums import BlockSums


def _values(blocks: int) -> list[np.ndarray]:
    """Arrays whose sums cancel, so that another order of adding gives other bits."""
    rng = np.random.default_rng(0)
    return list(rng.standard_normal((blocks, 6)) * 10.0 ** rng.integers(-12, 12, (blocks, 6)))


def _of(blocks: range | list[int], values: list[np.ndarray]) -> BlockSums:
    return reduce(add, (BlockSums.of(block, values[block]) for block in blocks), BlockSums())


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_partition_into_states_merged_in_any_order_has_the_same_bits(data):
    blocks = data.draw(st.integers(1, 40))
    values = _values(blocks)
    owner = data.draw(st.lists(st.integers(0, 6), min_size=blocks, max_size=blocks))
    arrival = data.draw(st.permutations(range(blocks)))
    states = [
        _of([block for block in arrival if owner[block] == worker], values)
        for worker in data.draw(st.permutations(range(7)))
    ]
    while len(states) > 1:  # any tree of merges, not only one from the left
        other = states.pop(data.draw(st.integers(0, len(states) - 1)))
        states[data.draw(st.integers(0, len(states) - 1))] += other
    assert states[0].total(blocks).tobytes() == _of(range(blocks), values).total(blocks).tobytes()


def test_the_values_of_this_test_would_show_another_order():
    values = _values(40)
    assert reduce(add, values).tobytes() != reduce(add, reversed(values)).tobytes()


def test_a_total_is_the_sum():
    numbers = [float(value[0]) for value in _values(37)]
    sums = reduce(add, (BlockSums.of(block, number) for block, number in enumerate(numbers)))
    assert sums.total(37) == pytest.approx(fsum(numbers), rel=1e-9)


def test_the_order_of_the_tree_is_the_order_of_the_blocks():
    sums = reduce(add, (BlockSums.of(block, (block,)) for block in (5, 2, 0, 4, 1, 6, 3)))
    assert sums.total(7) == tuple(range(7))


@pytest.mark.parametrize(
    ("blocks", "nodes"), [(range(64), 1), (range(50), 3), (range(8, 16), 1), (range(1, 63), 10)], ids=str
)
def test_contiguous_blocks_are_few_nodes(blocks, nodes):
    assert len(_of(blocks, _values(64)).nodes) == nodes


def test_a_state_survives_pickling():
    values = _values(9)
    first, last = (pickle.loads(pickle.dumps(_of(part, values))) for part in (range(5), range(5, 9)))
    assert (last + first).total(9).tobytes() == _of(range(9), values).total(9).tobytes()


def test_adding_changes_neither_side():
    values = _values(4)
    kept = [value.copy() for value in values]
    first, last = _of([0, 1], values), _of([2, 3], values)
    before = dict(first.nodes)
    _ = first + last
    assert dict(first.nodes) == before
    assert all(np.array_equal(a, b) for a, b in zip(values, kept, strict=True))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.data())
def test_the_first_missing_block_is_named(blocks, data):
    missing = data.draw(st.sets(st.integers(0, blocks - 1), min_size=1))
    sums = _of([block for block in range(blocks) if block not in missing], _values(blocks))
    with pytest.raises(ValueError, match=f"^block {min(missing)} of {blocks} is missing"):
        sums.total(blocks)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.data())
def test_the_first_block_that_both_sides_hold_is_named(blocks, data):
    one = data.draw(st.sets(st.integers(0, blocks - 1), min_size=1))
    shared = data.draw(st.sets(st.sampled_from(sorted(one)), min_size=1))
    values = _values(blocks)
    other = shared | set(
        data.draw(st.lists(st.sampled_from([b for b in range(blocks) if b not in one] or sorted(shared))))
    )
    with pytest.raises(ValueError, match=f"^block {min(shared)} is in both sums"):
        add(_of(sorted(one), values), _of(sorted(other), values))


def test_a_block_beyond_the_last_is_named():
    with pytest.raises(ValueError, match="expected the blocks 0 to 3, found block 5"):
        _of(range(6), _values(6)).total(4)


def test_no_blocks_have_no_total():
    with pytest.raises(ValueError, match="at least 1 row"):
        BlockSums().total()


def test_a_negative_block_is_refused():
    with pytest.raises(ValueError, match="block number >= 0, found -1"):
        BlockSums.of(-1, 1.0)

"""Sums over blocks of sample indices. Merging such sums gives the same bits in any order and for any
partition into workers.

The block numbers fix the order of the additions: block 0 + block 1, block 2 + block 3, then these two sums,
and so on. The sum of n contiguous blocks has at most 2 log2(n) nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from itertools import pairwise
from operator import add
from typing import Generic, Protocol, Self, TypeVar


class Addable(Protocol):
    def __add__(self, other: Self, /) -> Self: ...


T = TypeVar("T", bound=Addable)


@dataclass(frozen=True, eq=False)
class BlockSums(Generic[T]):
    """The sums of some blocks: `BlockSums()` is empty, `BlockSums.of(number, value)` holds one block, and
    `a + b` holds the blocks of both.

    `nodes` maps (level, position) to the sum of the 2^level blocks that start at block position * 2^level.
    Values are never changed in place.
    """

    nodes: Mapping[tuple[int, int], T] = field(default_factory=dict)

    @classmethod
    def of(cls, block: int, value: T) -> BlockSums[T]:
        """The sum of one block. Raises ValueError for a negative number."""
        if block < 0:
            raise ValueError(f"expected a block number >= 0, found {block}")
        return cls({(0, block): value})

    def __add__(self, other: BlockSums[T]) -> BlockSums[T]:
        """The sums of the blocks of both. Raises ValueError, which names the block, if both hold a block."""
        for a, b in pairwise(sorted([*self.blocks(), *other.blocks()], key=lambda blocks: blocks.start)):
            if b.start < a.stop:
                raise ValueError(f"block {b.start} is in both sums; add each block of rows once")
        nodes = dict(self.nodes)
        for (level, position), value in other.nodes.items():
            while (sibling := nodes.pop((level, position ^ 1), None)) is not None:
                value = sibling + value if position & 1 else value + sibling
                level, position = level + 1, position >> 1
            nodes[level, position] = value
        return BlockSums(nodes)

    def blocks(self) -> list[range]:
        """The summed blocks, one range per node, in ascending order."""
        nodes = (range(position << level, (position + 1) << level) for level, position in self.nodes)
        return sorted(nodes, key=lambda node: node.start)

    def total(self, blocks: int | None = None) -> T:
        """The sum over all blocks, that of the nodes from left to right.

        Raises ValueError if there are no blocks. With `blocks`, also raises ValueError unless the blocks are
        exactly 0 to blocks - 1.
        """
        held = self.blocks()
        if blocks is not None:
            gapless = 0
            for node in held:
                gapless = node.stop if node.start == gapless else gapless
            if gapless < blocks:
                raise ValueError(f"block {gapless} of {blocks} is missing; add the sums of all blocks first")
            if held and held[-1].stop > blocks:
                found = f"found block {held[-1].stop - 1}; the sums cover more rows than expected"
                raise ValueError(f"expected the blocks 0 to {blocks - 1}, {found}")
        if not held:
            raise ValueError("a total needs at least 1 row, found 0; check that the slice is not empty")
        return reduce(add, (self.nodes[len(node).bit_length() - 1, node.start // len(node)] for node in held))

"""Sums over blocks of sample indices: merging them gives the same bits in any order and from any partition.

The block numbers fix the order of the additions: block 0 + block 1, block 2 + block 3, then those two sums,
and so on. A state of n contiguous blocks has at most 2 log2(n) nodes.
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
    """Sums of blocks: `BlockSums()` holds none, `BlockSums.of(number, value)` one, `a + b` the blocks of
    both.

    `nodes` maps (level, position) to the sum of the 2^level blocks from block position * 2^level on. Values
    are never changed in place.
    """

    nodes: Mapping[tuple[int, int], T] = field(default_factory=dict)

    @classmethod
    def of(cls, block: int, value: T) -> BlockSums[T]:
        """The sum of one block. Raises ValueError for a negative number."""
        if block < 0:
            raise ValueError(f"expected a block number >= 0, found {block}")
        return cls({(0, block): value})

    def __add__(self, other: BlockSums[T]) -> BlockSums[T]:
        """The sums of the blocks of both. Raises ValueError, which names the first block that both hold."""
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
        """The sum over all blocks: the nodes, added from the left.

        Raises ValueError if there are none. With `blocks`, raises ValueError also for the first missing block
        of 0 to blocks - 1, and for a block beyond them.
        """
        held = self.blocks()
        if blocks is not None:
            gapless = 0
            for node in held:
                gapless = node.stop if node.start == gapless else gapless
            if gapless < blocks:
                raise ValueError(f"block {gapless} of {blocks} is missing; add the sums of all blocks first")
            if held and held[-1].stop > blocks:
                found = f"found block {held[-1].stop - 1}; these are sums of more rows"
                raise ValueError(f"expected the blocks 0 to {blocks - 1}, {found}")
        if not held:
            raise ValueError("a total needs at least 1 row, found 0; check that the slice is not empty")
        return reduce(add, (self.nodes[len(node).bit_length() - 1, node.start // len(node)] for node in held))

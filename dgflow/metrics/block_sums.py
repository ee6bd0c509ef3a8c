"""Sums over blocks of sample indices that merge in any order, and from any partition of the blocks, to the
same bits.

Floating-point sums depend on their order. Here the block numbers fix the order: block 0 + block 1, block 2 +
block 3, then those two sums, and so on. Whoever holds both halves of such a node adds them, and nobody adds
anything else, so a state has few nodes: one for 2^k blocks that start at a multiple of 2^k, at most 2 log2(n)
for n contiguous blocks. Leaves to others: what is summed, and that the sum of a block holds all rows of it
(whoever asks for a total compares its n).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Generic, Protocol, Self, TypeVar


class Addable(Protocol):
    def __add__(self, other: Self, /) -> Self: ...


T = TypeVar("T", bound=Addable)


@dataclass(frozen=True, eq=False)
class BlockSums(Generic[T]):
    """The sums of some blocks. `BlockSums()` holds none; `BlockSums.of(number, value)` one; `a + b` those of
    both.

    `nodes` maps (level, position) to the sum of the 2^level blocks from block position * 2^level on. Values
    are never changed in place.
    """

    nodes: Mapping[tuple[int, int], T] = field(default_factory=dict)

    @classmethod
    def of(cls, block: int, value: T) -> BlockSums[T]:
        """The sum of one block. Raises ValueError for a number below 0."""
        if block < 0:
            raise ValueError(f"expected a block number >= 0, found {block}")
        return cls({(0, block): value})

    def __add__(self, other: BlockSums[T]) -> BlockSums[T]:
        """The sums of the blocks of both. Raises ValueError that names the first block that both hold."""
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
        """The blocks that are in, as one range a node, in their order."""
        return sorted(
            (range(position << level, (position + 1) << level) for level, position in self.nodes),
            key=lambda node: node.start,
        )

    def total(self, blocks: int | None = None) -> T:
        """The sum over all blocks: the nodes, added from the left.

        With `blocks`, they must be the blocks 0 to blocks - 1: raises ValueError that names the first that is
        missing, or one beyond. Raises ValueError if there are none at all.
        """
        held = self.blocks()
        if blocks is not None:
            missing = next(
                (
                    a.stop
                    for a, b in pairwise([range(0), *held, range(blocks, blocks + 1)])
                    if a.stop < b.start
                ),
                None,
            )
            if missing is not None and missing < blocks:
                raise ValueError(f"block {missing} of {blocks} is missing; add the sums of all blocks first")
            if held and held[-1].stop > blocks:
                raise ValueError(
                    f"expected the blocks 0 to {blocks - 1}, found block {held[-1].stop - 1}; these are "
                    "sums of more rows"
                )
        if not held:
            raise ValueError("a total needs at least 1 row, found 0; check that the slice is not empty")
        first, *rest = (self.nodes[(len(node).bit_length() - 1, node.start // len(node))] for node in held)
        for value in rest:
            first = first + value
        return first

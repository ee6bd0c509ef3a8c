"""Passes over stored features, distributed over workers: sums, influences, neighbours, kernel distances.

The results are bit-identical for any division of the work and any order of completion. Memory does not grow
with the number of rows: a worker reads shard by shard, and caches the rows that it compares others with only
if they are small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from dgflow.metrics.block_sums import BlockSums
from dgflow.metrics.frechet import Moments, MomentsAccumulator
from dgflow.metrics.frechet_error import FrechetInfluence, InfluenceAccumulator, InfluenceSums
from dgflow.metrics.inception_score import InceptionScoreAccumulator, ScoreSums, shuffled_positions
from dgflow.metrics.kernel_distance import polynomial_mmd2, subset_indices
from dgflow.metrics.openai_distances import BLOCK_ROWS
from dgflow.metrics.precision_recall import PrecisionRecall, inside_any_ball_of, squared_radii_of
from dgflow.metrics.protocols import Distances
from dgflow.metrics.rows import BLOCK_SIZE
from dgflow.specs.step import Spread

if TYPE_CHECKING:
    from dgflow.specs.bound import Bound
    from dgflow.store.shards import Columns

Total = TypeVar("Total")

SUMMED = 8_000
"""Rows per item of sums: blocks of 1,000 that add up to one node of their tree, 67 MB at 2048 and 2023
features."""
QUERIES = 2_500
"""Rows per item of neighbours: 20 MB in float32 at 2048 features, and 20 items for 50,000 samples."""
KEPT = 2**29  # bytes of rows that a worker caches between items instead of reading them again
SUBSETS = 10  # subsets per item of kernel distances


def ranges(rows: int, size: int) -> list[tuple[int, int]]:
    """Returns [0, rows) in pieces of `size`."""
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]


def _in_order(
    make: Callable[[], Callable[[tuple[int, int]], Any]], items: Sequence[tuple[int, int]], spread: Spread
) -> list[Any]:
    """Yields the result of each item, in the order of the items."""
    results: dict[tuple[int, int], Any] = {}
    spread(make, items, results.__setitem__)
    return [results[item] for item in items]


def _total(
    make: Callable[[], Callable[[tuple[int, int]], Total]], rows: int, zero: Total, spread: Spread
) -> Total:
    """Returns the sum over [0, rows) of the results of items of `SUMMED` rows."""
    total: Any = zero

    def take(_: Any, part: Any) -> None:
        nonlocal total
        total = total + part

    spread(make, ranges(rows, SUMMED), take)
    return total


@dataclass(frozen=True)
class Sums:
    """The result of one pass.

    `moments` by column; `scores` of the logits; `facts`: the columns about the images themselves, by the
    index of the first row.
    """

    moments: dict[str, BlockSums[Moments]] = field(default_factory=dict)
    scores: BlockSums[ScoreSums] = field(default_factory=BlockSums[ScoreSums])
    facts: dict[int, Columns] = field(default_factory=dict)

    def __add__(self, other: Sums) -> Sums:
        """Returns the sums over the rows of both, which must be disjoint."""
        moments = {
            name: sums + other.moments[name] if name in other.moments else sums
            for name, sums in self.moments.items()
        }
        return Sums(other.moments | moments, self.scores + other.scores, self.facts | other.facts)

    def totals(self) -> dict[str, Moments]:
        """Returns the moments of all rows, by column. Raises ValueError for a missing block of rows."""
        blocks = -(-len(self.fact("label")) // BLOCK_SIZE)
        return {column: sums.total(blocks) for column, sums in self.moments.items()}

    def fact(self, column: str) -> np.ndarray:
        """Returns one of the columns of `facts`, for all rows in order."""
        return np.concatenate([self.facts[start][column] for start in sorted(self.facts)])


FACTS = ("label", "constant", "pixels")


def summed(
    inputs: Bound, name: str, rows: int, columns: Sequence[str], split_size: int, spread: Spread
) -> Sums:
    """Returns moments of `features` and `spatial` and sums of `logits`, as far as `columns` names them, and
    the images' facts."""
    total = _total(partial(_summing, inputs, name, tuple(columns), split_size), rows, Sums(), spread)
    if (found := len(total.fact("label"))) != rows:
        raise ValueError(f"expected {rows} rows of {name}, found {found}; run `verify` on the root")
    return total


def _summing(
    inputs: Bound, name: str, columns: tuple[str, ...], split_size: int
) -> Callable[[tuple[int, int]], Sums]:
    def work(item: tuple[int, int]) -> Sums:
        start, stop = item
        moments = {column: MomentsAccumulator(start) for column in columns if column != "logits"}
        scores = InceptionScoreAccumulator(start, split_size)
        facts: list[Columns] = []
        for piece in inputs.pieces(name, [*columns, *FACTS], start, stop):
            for column, accumulator in moments.items():
                accumulator.add(piece[column])
            if "logits" in columns:
                scores.add(piece["logits"])
            facts.append({fact: piece[fact] for fact in FACTS})
        columns_of_facts = {fact: np.concatenate([piece[fact] for piece in facts]) for fact in FACTS}
        sums = {column: accumulator.sums() for column, accumulator in moments.items()}
        return Sums(sums, scores.sums(), {start: columns_of_facts})

    return work


def shuffled_scores(inputs: Bound, name: str, rows: int, split_size: int, spread: Spread) -> ScoreSums:
    """Returns the sums of `logits` by the splits of a random order, that of `shuffled_positions`."""
    make = partial(_summing_shuffled, inputs, name, rows, split_size)
    return _total(make, rows, BlockSums[ScoreSums](), spread).total()


def _summing_shuffled(
    inputs: Bound, name: str, rows: int, split_size: int
) -> Callable[[tuple[int, int]], BlockSums[ScoreSums]]:
    positions = shuffled_positions(rows)

    def work(item: tuple[int, int]) -> BlockSums[ScoreSums]:
        scores = InceptionScoreAccumulator(item[0], split_size, positions)
        for piece in inputs.pieces(name, ["logits"], *item):
            scores.add(piece["logits"])
        return scores.sums()

    return work


def influence(
    inputs: Bound, name: str, rows: int, column: str, influence: FrechetInfluence, spread: Spread
) -> BlockSums[InfluenceSums]:
    """Returns the sums of the influence of every row of `column` on the Fréchet distance."""
    make = partial(_influencing, inputs, name, column, influence)
    return _total(make, rows, BlockSums[InfluenceSums](), spread)


def _influencing(
    inputs: Bound, name: str, column: str, influence: FrechetInfluence
) -> Callable[[tuple[int, int]], BlockSums[InfluenceSums]]:
    # Ray returns read-only arrays, and torch warns of those.
    own = replace(influence, bend=np.require(influence.bend, requirements="W"))

    def work(item: tuple[int, int]) -> BlockSums[InfluenceSums]:
        accumulator = InfluenceAccumulator(own, item[0])
        for piece in inputs.pieces(name, [column], *item):
            accumulator.add(piece[column])
        return accumulator.sums()

    return work


@dataclass(frozen=True)
class Population:
    """Rows of features that others are compared with: the first `rows` of a slice, or `held` in memory."""

    inputs: Bound
    name: str
    rows: int
    held: np.ndarray | None = None

    @classmethod
    def at(cls, positions: np.ndarray, inputs: Bound, name: str, spread: Spread) -> Population:
        """Returns the rows at `positions` (ascending), held in memory; reads every shard once."""
        items = [
            (start, stop)
            for start, stop in ranges(int(positions[-1]) + 1, SUMMED)
            if len(_inside_of(positions, start, stop))
        ]
        held = np.concatenate(_in_order(partial(_choosing, inputs, name, positions), items, spread))
        return cls(inputs, name, len(positions), held)

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Yields the features of rows [start, stop), shard by shard."""
        stop = self.rows if stop is None else stop
        if self.held is not None:
            yield self.held[start:stop]
            return
        for piece in self.inputs.pieces(self.name, ["features"], start, stop):
            yield piece["features"]

    def block(self, start: int, stop: int) -> np.ndarray:
        """Returns rows [start, stop) in memory."""
        return np.concatenate(list(self.pieces(start, stop)))

    def again(self) -> Callable[[], Iterator[np.ndarray]]:
        """Returns a function that yields all rows at each call, from memory after the first call if they are
        small."""
        kept: list[np.ndarray] = []

        def pieces() -> Iterator[np.ndarray]:
            if kept:
                yield from kept
                return
            seen: list[np.ndarray] = []
            for piece in self.pieces():
                if self.rows * piece.shape[1] * piece.itemsize <= KEPT:
                    seen.append(piece)
                yield piece
            kept.extend(seen)

        return pieces


def _inside_of(positions: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Returns the part of `positions` (ascending) in [start, stop), counted from `start`."""
    return positions[np.searchsorted(positions, start) : np.searchsorted(positions, stop)] - start


def _choosing(inputs: Bound, name: str, positions: np.ndarray) -> Callable[[tuple[int, int]], np.ndarray]:
    def work(item: tuple[int, int]) -> np.ndarray:
        pieces = (piece["features"] for piece in inputs.pieces(name, ["features"], *item))
        return _picked(pieces, _inside_of(positions, *item))

    return work


def _picked(pieces: Iterator[np.ndarray], positions: np.ndarray) -> np.ndarray:
    """Yields the rows at `positions` (ascending), from rows that come in pieces."""
    rows, first = [], 0
    for piece in pieces:
        rows.append(piece[_inside_of(positions, first, first + len(piece))])
        first += len(piece)
    return np.concatenate(rows)


def neighbours(
    real: Population, fake: Population, k: int, distances: Distances, spread: Spread
) -> PrecisionRecall:
    """Returns precision and recall by blocks of rows: the radii of both sides first, then the points inside
    the balls."""
    size = BLOCK_ROWS if distances == "openai-float16" else QUERIES

    def over(work: Callable[..., Any], population: Population, *arguments: Any) -> np.ndarray:
        make = partial(work, population, *arguments, distances)
        return np.concatenate(_in_order(make, ranges(population.rows, size), spread))

    real_radii, fake_radii = over(_radii, real, k), over(_radii, fake, k)
    return PrecisionRecall(
        precision=float(over(_inside, fake, real, real_radii).mean()),
        recall=float(over(_inside, real, fake, fake_radii).mean()),
    )


def _radii(population: Population, k: int, distances: Distances) -> Callable[[tuple[int, int]], np.ndarray]:
    everybody = population.again()
    return lambda item: squared_radii_of(
        population.block(*item), everybody(), k, distances=distances, device=_device()
    )


def _inside(
    queries: Population, centres: Population, squared_radii: np.ndarray, distances: Distances
) -> Callable[[tuple[int, int]], np.ndarray]:
    everybody = centres.again()

    def balls() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        first = 0
        for piece in everybody():
            yield piece, squared_radii[first : first + len(piece)]
            first += len(piece)

    return lambda item: inside_any_ball_of(
        queries.block(*item), balls(), distances=distances, device=_device()
    )


def kernel_distances(
    real: Population, fake: Population, subsets: int, subset_size: int, seed: int, spread: Spread
) -> np.ndarray:
    """Returns the unbiased squared MMD of every subset, in order."""
    make = partial(_kernel, real, fake, subsets, subset_size, seed)
    return np.concatenate(_in_order(make, ranges(subsets, SUBSETS), spread))


def _kernel(
    real: Population, fake: Population, subsets: int, subset_size: int, seed: int
) -> Callable[[tuple[int, int]], list[float]]:
    drawn = subset_indices(real.rows, fake.rows, subsets, subset_size, seed)
    all_real, all_fake = real.again(), fake.again()

    def work(item: tuple[int, int]) -> list[float]:
        pairs = drawn[slice(*item)]
        real_rows, real_indices = _gathered(all_real(), [pair[0] for pair in pairs])
        fake_rows, fake_indices = _gathered(all_fake(), [pair[1] for pair in pairs])
        indices = zip(real_indices, fake_indices, strict=True)
        return [polynomial_mmd2(real_rows[real], fake_rows[fake]) for real, fake in indices]

    return work


def _gathered(pieces: Iterator[np.ndarray], wanted: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns the union of the rows in `wanted`, without repeats, and the indices of each array among
    them."""
    needed = np.unique(np.concatenate(wanted))
    return _picked(pieces, needed), [np.searchsorted(needed, indices) for indices in wanted]


def _device() -> str:
    from dgflow.diffusion.acceleration import device

    return device().type

"""Improved precision and recall (Kynkäänniemi et al. 2019), exact, by blocks of queries over streamed rows.

Counts follow from float64 squared differences, and a tie counts as inside. The counts do not depend on the
partition and order of the rows, the device, or the number of threads. Memory does not grow with the number of
rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch

from dgflow.metrics.exact_distances import (
    Shifted,
    index_strips,
    nearest_pairs,
    open_pairs,
    smallest_of,
    squared_distance,
    strips,
)
from dgflow.metrics.openai_distances import BLOCK_ROWS, distance_strips
from dgflow.metrics.protocols import Distances
from dgflow.metrics.rows import checked_rows

# Shape suffixes: N rows, Q queries, S queries of a strip, C centres, K the k + 1 nearest, D features.
_CENTRE_ROWS = 2048  # centres compared at once, for any sizes of the pieces


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares, in [0, 1], of the fakes inside the reals' manifold and of the reals inside the fakes' manifold.

    The manifold of some samples is the union of closed balls around them. The radius of each ball is the
    distance to the k-th nearest other sample.
    """

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 if both are 0."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def squared_radii_of(
    queries_QD: np.ndarray,
    population: Iterable[np.ndarray],
    k: int = 3,
    *,
    distances: Distances = "exact",
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """The squared distance [Q], float64, from each query to its k-th nearest other row of a population that
    contains the query.

    Args:
        population: pieces [n, D] of any size, in any order. Do not overwrite them: up to 2,048 rows are
            referenced.
        distances: for "openai-float16" the queries must be one whole block of 10,000 rows (the last block of
            a set may be smaller), and the pieces must be in index order. Up to 10,000 rows are then
            referenced.

    Raises:
        ValueError: a row is not finite, widths differ, k < 1 or the population has fewer than k + 1 rows.
    """
    if k < 1:
        raise ValueError(f"expected k >= 1 nearest neighbours, found {k}")
    queries, rows_seen = _queries(queries_QD, distances, device), 0
    smallest_QK = torch.full((len(queries), k + 1), torch.inf, dtype=torch.float64, device=device)
    near = Shifted.amid(queries) if distances == "exact" else None
    for (rows,) in _groups(((piece,) for piece in population), "population", queries.shape[1], distances):
        rows_seen += len(rows)
        centres = _tensor(rows, device)
        if near is None:
            for strip, distances_SC in distance_strips(queries, centres):
                nearest = distances_SC.topk(min(k + 1, len(rows)), largest=False).values.double()
                candidates = torch.cat([smallest_QK[strip], nearest], dim=1)
                smallest_QK[strip] = candidates.topk(k + 1, largest=False).values
            continue
        shifted = Shifted(centres, near.origin)
        for strip in strips(len(queries)):
            q, c = nearest_pairs(near, strip, shifted, smallest_QK[strip, -1], k)
            exact = squared_distance(queries[strip], q, centres, c)
            smallest_QK[strip] = smallest_of(smallest_QK[strip], q, exact)
    if rows_seen <= k:
        raise ValueError(
            f"expected k >= 1 and at least k + 1 = {k + 1} rows of features, found {rows_seen}; use more "
            "samples"
        )
    return smallest_QK[:, -1].cpu().numpy()


def inside_any_ball_of(
    queries_QD: np.ndarray,
    centres: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    distances: Distances = "exact",
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """True [Q] for each query inside a closed ball around any centre.

    `centres` are pieces (rows [n, D], squared radii [n]); the rules for the population of `squared_radii_of`
    apply. Raises ValueError as `squared_radii_of` does.
    """
    queries = _queries(queries_QD, distances, device)
    inside = torch.zeros(len(queries), dtype=torch.bool, device=device)
    near = Shifted.amid(queries) if distances == "exact" else None
    for rows, radii in _groups(centres, "centres", queries.shape[1], distances):
        block, radii_C = _tensor(rows, device), torch.from_numpy(radii.astype(np.float64)).to(device)
        if near is None:
            for strip, distances_SC in distance_strips(queries, block):
                inside[strip] |= (distances_SC <= radii_C).any(dim=1)
            continue
        shifted = Shifted(block, near.origin)
        for strip in index_strips(torch.nonzero(~inside)[:, 0]):  # one ball is enough
            inside_S, q, c = open_pairs(near, strip, shifted, radii_C)
            inside_S[q[squared_distance(queries, strip[q], block, c) <= radii_C[c]]] = True
            inside[strip] = inside_S
    return inside.cpu().numpy()


def _queries(rows_QD: np.ndarray, distances: Distances, device: torch.device | str) -> torch.Tensor:
    if distances not in get_args(Distances):
        raise ValueError(f"expected distances of {', '.join(get_args(Distances))}, found {distances!r}")
    if distances == "openai-float16" and len(rows_QD) > BLOCK_ROWS:
        raise ValueError(
            f"expected one block of at most {BLOCK_ROWS} queries for {distances!r}, found {len(rows_QD)}; "
            f"cut them at multiples of {BLOCK_ROWS}"
        )
    return _tensor(checked_rows(rows_QD, "queries"), device)


def _tensor(rows: np.ndarray, device: torch.device | str) -> torch.Tensor:
    # Read-only arrays, such as Parquet's, are copied, since torch warns about them.
    floats = rows if rows.dtype in (np.float16, np.float32) else rows.astype(np.float64, copy=False)
    return torch.from_numpy(np.require(floats, requirements=["C", "W"])).to(device)


def _groups(
    pieces: Iterable[tuple[np.ndarray, ...]], what: str, width: int, distances: Distances
) -> Iterator[tuple[np.ndarray, ...]]:
    """Check the pieces (rows, and arrays with one number per row), and join them into groups of equal size.
    The last group may be smaller."""
    size = BLOCK_ROWS if distances == "openai-float16" else _CENTRE_ROWS
    held: list[tuple[np.ndarray, ...]] = []
    rows_seen = count = 0
    for rows, *others in pieces:
        rows, others = checked_rows(rows, what, rows_seen, width), [np.asarray(other) for other in others]
        for other in others:
            if other.shape != (len(rows),):
                found = f"found shape {list(other.shape)}"
                raise ValueError(f"{what}: expected one squared radius per row, shape [{len(rows)}], {found}")
        rows_seen += len(rows)
        while len(rows):
            part, rest = slice(size - count), slice(size - count, None)
            held.append((rows[part], *(other[part] for other in others)))
            rows, others, count = rows[rest], [other[rest] for other in others], count + len(held[-1][0])
            if count == size:
                group = _joined(held)
                held, count = [], 0  # released before the group is processed
                yield group
    if held:
        yield _joined(held)


def _joined(parts: list[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))

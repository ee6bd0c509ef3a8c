"""Improved precision and recall (Kynkäänniemi et al. 2019), exact, by blocks of queries over streamed rows.

Promises: the counts that float64 squared differences give, ties counted as inside; the same bits however
    queries and rows are cut, in any
order of rows, on every device and with any number of threads, since a fast matrix product only sorts out the
    clear cases: what is within
its rounding error is computed again one way everywhere. Memory is that of the queries and some blocks,
    whatever the number of rows.
Leaves to others: which features these are, and how many (10,000 reference images against 50,000 samples in
    the `adm` protocol), where the
rows come from, spreading queries over workers, and the rounding of `distances="openai-float16"`
    (`openai_distances`, which see).
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

# Shape suffixes: N, M rows, Q queries, S a strip of them, C centres, K the k + 1 nearest, D features.
_QUERY_ROWS = 5000  # rows a block of queries, where they are in memory
_CENTRE_ROWS = 2048  # rows compared at once, in whatever pieces they come


@dataclass(frozen=True)
class PrecisionRecall:
    """precision: share of the fakes inside the reals' manifold; recall: share of the reals inside the fakes'
    manifold; both in [0, 1]."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Harmonic mean of the two, 0 where both are 0."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def precision_recall(
    real_ND: np.ndarray,
    fake_MD: np.ndarray,
    k: int = 3,
    *,
    distances: Distances = "exact",
    device: torch.device | str = "cpu",
) -> PrecisionRecall:
    """Precision and recall of the fakes with k nearest neighbours, of arrays in memory.

    A manifold is the union of the closed balls around its samples, each reaching its sample's k-th nearest
    other sample. Costs about 2 D (N^2 + M^2 + 2 N M) operations. Raises ValueError if a row is not finite,
    the dimensions differ or a side has fewer than k + 1 rows.
    """
    real = checked_rows(real_ND, "real features")
    fake = checked_rows(fake_MD, "fake features", width=real.shape[1])
    for rows in (real, fake):
        _check_neighbours(k, len(rows))
    real_radii, fake_radii = (
        squared_radii(rows, k, distances=distances, device=device) for rows in (real, fake)
    )
    return PrecisionRecall(
        precision=float(inside_any_ball(fake, real, real_radii, distances=distances, device=device).mean()),
        recall=float(inside_any_ball(real, fake, fake_radii, distances=distances, device=device).mean()),
    )


def squared_radii(
    features_ND: np.ndarray, k: int = 3, *, distances: Distances = "exact", device: torch.device | str = "cpu"
) -> np.ndarray:
    """Squared distance [N], float64, of each row to its k-th nearest other row.

    Errors as `precision_recall`.
    """
    features = checked_rows(features_ND, "features")
    _check_neighbours(k, len(features))
    blocks = _query_blocks(features, distances)
    return np.concatenate(
        [squared_radii_of(block, [features], k, distances=distances, device=device) for block in blocks]
    )


def inside_any_ball(
    queries_QD: np.ndarray,
    centres_CD: np.ndarray,
    squared_radii_C: np.ndarray,
    *,
    distances: Distances = "exact",
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Whether [Q] each query lies in a closed ball around some centre. Errors as `precision_recall`."""
    blocks = _query_blocks(checked_rows(queries_QD, "queries"), distances)
    balls = [(centres_CD, squared_radii_C)]
    return np.concatenate(
        [inside_any_ball_of(block, balls, distances=distances, device=device) for block in blocks]
    )


def squared_radii_of(
    queries_QD: np.ndarray,
    population: Iterable[np.ndarray],
    k: int = 3,
    *,
    distances: Distances = "exact",
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Squared distance [Q], float64, of each query to its k-th nearest other row of a population that holds
    the queries too.

    `population`: pieces [n, D] of any sizes and in any order, kept until 2,048 rows are together, so not to
        be overwritten. With
    "openai-float16" the queries are one whole block of 10,000 rows (the last of a set may be shorter) and
        pieces come in index order,
    kept until 10,000 rows are together. Raises ValueError if a row is not finite, widths differ, k < 1 or the
    population has fewer than k + 1
        rows.
    """
    if k < 1:
        raise ValueError(f"expected k >= 1 nearest neighbours, found {k}")
    queries, seen = _queries(queries_QD, distances, device), 0
    smallest_QK = torch.full((len(queries), k + 1), torch.inf, dtype=torch.float64, device=device)
    near = Shifted.amid(queries) if distances == "exact" else None
    for (rows,) in _groups(((piece,) for piece in population), "population", queries.shape[1], distances):
        seen += len(rows)
        centres = _tensor(rows, device)
        if near is None:
            for strip, distances_SC in distance_strips(queries, centres):
                nearest = distances_SC.topk(min(k + 1, len(rows)), largest=False).values.double()
                smallest_QK[strip] = (
                    torch.cat([smallest_QK[strip], nearest], dim=1).topk(k + 1, largest=False).values
                )
            continue
        shifted = Shifted(centres, near.origin)
        for strip in strips(len(queries)):
            q, c = nearest_pairs(near, strip, shifted, smallest_QK[strip, -1], k)
            smallest_QK[strip] = smallest_of(
                smallest_QK[strip], q, squared_distance(queries[strip], q, centres, c)
            )
    _check_neighbours(k, seen)
    return smallest_QK[:, -1].cpu().numpy()


def inside_any_ball_of(
    queries_QD: np.ndarray,
    centres: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    distances: Distances = "exact",
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Whether [Q] each query lies in a closed ball around some centre.

    `centres`: pieces (rows [n, D], their squared radii [n]), otherwise as the population of
        `squared_radii_of`; errors as there.
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
            found, q, c = open_pairs(near, strip, shifted, radii_C)
            found[q[squared_distance(queries, strip[q], block, c) <= radii_C[c]]] = True
            inside[strip] = found
    return inside.cpu().numpy()


def _check_neighbours(k: int, rows: int) -> None:
    if not 1 <= k < rows:
        raise ValueError(
            f"expected k >= 1 and at least k + 1 = {k + 1} rows of features, found {rows}; use more samples"
        )


def _query_blocks(rows_ND: np.ndarray, distances: Distances) -> list[np.ndarray]:
    size = BLOCK_ROWS if distances == "openai-float16" else _QUERY_ROWS
    return [rows_ND[start : start + size] for start in range(0, max(len(rows_ND), 1), size)]


def _queries(rows_QD: np.ndarray, distances: Distances, device: torch.device | str) -> torch.Tensor:
    if distances not in get_args(Distances):
        raise ValueError(f"expected distances of {', '.join(get_args(Distances))}, found {distances!r}")
    if distances == "openai-float16" and len(rows_QD) > BLOCK_ROWS:
        raise ValueError(
            f"expected one block of at most {BLOCK_ROWS} queries for {distances!r}, found {len(rows_QD)}; "
            "cut at its multiples"
        )
    return _tensor(checked_rows(rows_QD, "queries"), device)


def _tensor(rows: np.ndarray, device: torch.device | str) -> torch.Tensor:
    # Torch warns of arrays that it could write to and must not, such as those that Parquet hands out: copied
    # then, and only then.
    kept = rows if rows.dtype in (np.float16, np.float32) else rows.astype(np.float64, copy=False)
    return torch.from_numpy(np.require(kept, requirements=["C", "W"])).to(device)


def _groups(
    pieces: Iterable[tuple[np.ndarray, ...]], what: str, width: int, distances: Distances
) -> Iterator[tuple[np.ndarray, ...]]:
    """The pieces, each rows and what belongs to them, checked and joined to groups of one size; the last may
    be shorter."""
    size = BLOCK_ROWS if distances == "openai-float16" else _CENTRE_ROWS
    held: list[tuple[np.ndarray, ...]] = []
    seen = count = 0
    for rows, *others in pieces:
        rows, others = checked_rows(rows, what, seen, width), [np.asarray(other) for other in others]
        for other in others:
            if other.shape != (len(rows),):
                raise ValueError(
                    f"{what}: expected one squared radius a row, shape [{len(rows)}], found shape "
                    f"{list(other.shape)}"
                )
        seen += len(rows)
        while len(rows):
            part, rest = slice(size - count), slice(size - count, None)
            held.append((rows[part], *(other[part] for other in others)))
            rows, others, count = rows[rest], [other[rest] for other in others], count + len(held[-1][0])
            if count == size:
                group = _joined(held)
                held, count = [], 0  # before the group is worked on: the pieces need not stay
                yield group
    if held:
        yield _joined(held)


def _joined(parts: list[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))

"""Squared distances rounded as OpenAI's evaluator rounds them: a compatibility mode, for comparison with
numbers that it gave.

Promises: float16 distances for each block of 10,000 x 10,000 rows in which all of them are finite, else
    float32 ones, by operations that
reproduce its radii bit for bit (TensorFlow 2.21 on an x86 processor; float16 for 12 to 512 features, float32
    for 32 and 64), and its
precision and recall, also of 2048 features. What is not reproduced is the order in which the float32 products
    of a wide row are added,
by which one float16 distance in some thousands can differ in its last place. Leaves to others: cutting rows
at the multiples of 10,000 from index 0, and what is done with the distances.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

# Shape suffixes: Q queries, C centres, S a strip of queries, N rows, D features.
BLOCK_ROWS = 10_000
_STRIP_ROWS = 500  # queries whose distances to a block are held at once: 20 MB an array
_LANES = 8  # numbers in a vector register of TensorFlow's processor code, and so in one of its partial sums
_LEAF_VECTORS = {
    torch.float16: 200,
    torch.float32: 1024,
}  # vectors that it adds one by one; longer rows are halved first
_SURELY_FINITE = 60_000.0  # of 65,504; what is left covers the rounding of the norms


def distance_strips(
    queries_QD: torch.Tensor, centres_CD: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor]]:
    """(which queries, their squared distances [S, C] to all centres, float32), strip by strip, for one block
    of at most 10,000 x 10,000.

    Whether a block is float16 is decided by all its pairs, so both sides must be whole blocks (the last one
    of a set may be shorter).
    """
    half = _Block(queries_QD.half(), centres_CD.half())
    return (half if half.is_finite() else _Block(queries_QD.float(), centres_CD.float())).strips()


class _Block:
    """|q|^2 - 2 q.c + |c|^2, not below 0, with every operation rounded to the rows' own dtype; the products
    are summed in float32."""

    def __init__(self, queries_QD: torch.Tensor, centres_CD: torch.Tensor):
        self._queries, self._query_norms = queries_QD, _squared_norms(queries_QD)
        self._centres, self._centre_norms = centres_CD.float(), _squared_norms(centres_CD)

    def strips(self) -> Iterator[tuple[slice, torch.Tensor]]:
        for start in range(0, len(self._queries), _STRIP_ROWS):
            strip = slice(start, start + _STRIP_ROWS)
            product_SC = (self._queries[strip].float() @ self._centres.T).to(self._queries.dtype)
            distances_SC = product_SC.mul_(-2).add_(self._query_norms[strip, None]).add_(self._centre_norms)
            yield strip, distances_SC.clamp_(min=0).float()

    def is_finite(self) -> bool:
        """Whether no distance is infinite or NaN; sure of it from the norms alone for features such as
        Inception's."""
        if not (len(self._query_norms) and len(self._centre_norms)):
            return True
        longest = self._query_norms.max().float().sqrt() + self._centre_norms.max().float().sqrt()
        if not longest.isfinite():
            return False
        return bool(longest.square() < _SURELY_FINITE) or all(
            bool(distances.isfinite().all()) for _, distances in self.strips()
        )


def _squared_norms(rows_ND: torch.Tensor) -> torch.Tensor:
    """Sums [N] of the squares, rounded to the rows' dtype after each addition, in the order of Eigen's
    vectorised reduction."""
    return _row_sums(rows_ND.square())


def _row_sums(terms_ND: torch.Tensor) -> torch.Tensor:
    width = terms_ND.shape[1]
    if width > _LANES * _LEAF_VECTORS[terms_ND.dtype]:
        half = -(-width // 2)
        half += -half % _LANES  # as there where rows begin at a multiple of 8, so for widths that are one
        return _row_sums(terms_ND[:, :half]) + _row_sums(terms_ND[:, half:])
    # Four vectors side by side while they last, added up from the left, then single vectors, then single
    # numbers.
    fours, whole = width - width % (4 * _LANES), width - width % _LANES
    four = _added(terms_ND[:, :fours], 4 * _LANES)
    vector = _added(torch.cat([four, terms_ND[:, fours:whole]], dim=1), _LANES)
    lanes = vector.float()
    while lanes.shape[1] > 1:
        lanes = lanes[:, : lanes.shape[1] // 2] + lanes[:, lanes.shape[1] // 2 :]
    return _added(terms_ND[:, whole:], 1)[:, 0] + lanes[:, 0].to(terms_ND.dtype)


def _added(terms_ND: torch.Tensor, width: int) -> torch.Tensor:
    """The sum [N, width] of the groups of `width` columns, one after another."""
    total = torch.zeros(len(terms_ND), width, dtype=terms_ND.dtype, device=terms_ND.device)
    for start in range(0, terms_ND.shape[1], width):
        total += terms_ND[:, start : start + width]
    return total

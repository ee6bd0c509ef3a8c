"""Squared distances, rounded as in OpenAI's evaluator, for comparison with its numbers.

Radii equal the evaluator's bit for bit (TensorFlow 2.21 on x86; float16 for 12 to 512 features, float32 for
32 and 64). Precision and recall are also equal for 2048 features. The order in which TensorFlow adds the
float32 products of a wide row is not reproduced: one float16 distance in a few thousand can differ in its
last bit.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

# Shape suffixes: Q queries, C centres, S a strip of queries, N rows, D features.
BLOCK_ROWS = 10_000
_STRIP_ROWS = 500  # queries whose distances to a block are held at once: 20 MB per array
_LANES = 8  # numbers per vector register in TensorFlow's CPU code, and so per partial sum
_LEAF_VECTORS = {torch.float16: 200, torch.float32: 1024}  # added one by one; longer rows are halved first
_SURELY_FINITE = 60_000.0  # float16's maximum, 65,504, less a margin for the rounding of the norms


def distance_strips(
    queries_QD: torch.Tensor, centres_CD: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield (queries, their squared distances [S, C] to all centres) of one block, strip by strip, in
    float32.

    A block has 10,000 queries and 10,000 centres, cut at multiples of 10,000 from index 0; the last block may
    be smaller. Distances are rounded to float16 if all distances of the block are finite in float16,
    otherwise to float32.
    """
    half = _Block(queries_QD.half(), centres_CD.half())
    return (half if half.is_finite() else _Block(queries_QD.float(), centres_CD.float())).strips()


class _Block:
    """The distances max(|q|^2 - 2 q.c + |c|^2, 0) of a block. Every operation is rounded to the dtype of the
    rows; products are summed in float32."""

    def __init__(self, queries_QD: torch.Tensor, centres_CD: torch.Tensor):
        self._queries, self._query_norms = queries_QD, _row_sums(queries_QD.square())
        self._centres, self._centre_norms = centres_CD.float(), _row_sums(centres_CD.square())

    def strips(self) -> Iterator[tuple[slice, torch.Tensor]]:
        for start in range(0, len(self._queries), _STRIP_ROWS):
            strip = slice(start, start + _STRIP_ROWS)
            product_SC = (self._queries[strip].float() @ self._centres.T).to(self._queries.dtype)
            distances_SC = product_SC.mul_(-2).add_(self._query_norms[strip, None]).add_(self._centre_norms)
            yield strip, distances_SC.clamp_(min=0).float()

    def is_finite(self) -> bool:
        """True if no distance is infinite or NaN. For features such as Inception's, the norms alone show
        it."""
        if not (len(self._query_norms) and len(self._centre_norms)):
            return True
        longest = self._query_norms.max().float().sqrt() + self._centre_norms.max().float().sqrt()
        if not longest.isfinite():
            return False
        if longest.square() < _SURELY_FINITE:
            return True
        return all(bool(distances.isfinite().all()) for _, distances in self.strips())


def _row_sums(terms_ND: torch.Tensor) -> torch.Tensor:
    """The sums [N] of the rows, rounded after each addition, in the order of Eigen's vectorised reduction."""
    width = terms_ND.shape[1]
    if width > _LANES * _LEAF_VECTORS[terms_ND.dtype]:
        half = -(-width // 2)
        half += -half % _LANES  # as in TensorFlow for rows that start at multiples of 8
        return _row_sums(terms_ND[:, :half]) + _row_sums(terms_ND[:, half:])
    # As long as four vectors are left, four are added at once; then single vectors, then single numbers.
    fours, whole = width - width % (4 * _LANES), width - width % _LANES
    four = _group_sum(terms_ND[:, :fours], 4 * _LANES)
    vector = _group_sum(torch.cat([four, terms_ND[:, fours:whole]], dim=1), _LANES)
    lanes = vector.float()
    while lanes.shape[1] > 1:
        lanes = lanes[:, : lanes.shape[1] // 2] + lanes[:, lanes.shape[1] // 2 :]
    return _group_sum(terms_ND[:, whole:], 1)[:, 0] + lanes[:, 0].to(terms_ND.dtype)


def _group_sum(terms_ND: torch.Tensor, width: int) -> torch.Tensor:
    """Sum [N, width] of the groups of `width` columns, in order."""
    total = terms_ND.new_zeros(len(terms_ND), width)
    for start in range(0, terms_ND.shape[1], width):
        total += terms_ND[:, start : start + width]
    return total

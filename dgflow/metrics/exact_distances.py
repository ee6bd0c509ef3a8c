"""Find near pairs of rows by bounds from a fast matrix product, and compute their exact squared distances.

The bounds account for all rounding errors. The distances have the same bits on every device.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

# Shape suffixes: N rows, Q queries, S queries of a strip, C centres, K the k + 1 nearest, P pairs of a query
# and a centre, D features.
_STRIP_ROWS = 1024  # queries compared with centres at once: 8 MB of float32 bounds, 17 MB of float64 ones
_PAIR_ELEMENTS = 2**17  # pairs x features per step of the exact distances: 1 MB, which fits into the cache
_UNCLEAR = (
    64  # undecided pairs per query (of 2,048) above which float64 bounds are cheaper than float32 bounds
)
_UNDERFLOW = 2.0**-99  # added to squared norms in error bounds: covers products too small for float32
_LARGEST = 1e37  # largest squared norm for float32 bounds
_WIDEST = 2**17  # most features for which (D + 16) eps is as small as the bounds assume


def strips(rows: int) -> Iterator[slice]:
    """Yield slices that cut `rows` queries into strips."""
    return (slice(start, start + _STRIP_ROWS) for start in range(0, rows, _STRIP_ROWS))


def index_strips(rows_Q: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Cut queries, given by their indices, into strips."""
    return rows_Q.split(_STRIP_ROWS)


class Shifted:
    """Rows relative to an origin. Any origin is correct; an origin amid the rows keeps rounding errors
    small."""

    def __init__(self, rows_ND: torch.Tensor, origin: torch.Tensor):
        self.rows, self.origin = rows_ND, origin
        self.norms = torch.empty(len(rows_ND), dtype=torch.float64, device=rows_ND.device)
        has_low = rows_ND.device.type == "cpu" and rows_ND.shape[1] < _WIDEST
        self.low = torch.empty(rows_ND.shape, dtype=torch.float32) if has_low else None
        for strip in strips(len(rows_ND)):
            shifted = self.precise(strip)
            self.norms[strip] = torch.linalg.vecdot(shifted, shifted)
            if self.low is not None:
                self.low[strip] = shifted
        if not (self.norms <= _LARGEST).all():
            self.low = None

    @classmethod
    def amid(cls, rows_ND: torch.Tensor) -> Shifted:
        """Shift the rows by the mean of the first 4,096 rows."""
        return cls(rows_ND, rows_ND[:4096].double().mean(dim=0))

    def precise(self, rows: slice | torch.Tensor) -> torch.Tensor:
        """The shifted rows in float64."""
        return self.rows[rows].double() - self.origin


def _bounds(
    a: Shifted, rows_S: slice | torch.Tensor, b: Shifted, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(lower [S, C], slack [S, 1], slack [C]): each `squared_distance` is in [lower, lower + slack + slack].

    Computed from |a|^2 + |b|^2 - 2 a.b. A sum of D products rounds by at most about D eps / 2 of the sum of
    their magnitudes (Higham 2002, section 3.1), here at most (|a|^2 + |b|^2) / 2. The float32 term covers the
    product, its rounded factors, and the additions here and in comparisons with radii; the float64 term also
    covers the norms, the shift of the origin and the rounding of the exact form.
    """
    width = a.rows.shape[1]
    error = 4 * (width + 8) * torch.finfo(torch.float64).eps
    if dtype == torch.float32:
        assert a.low is not None and b.low is not None
        error += 0.505 * (width + 16) * torch.finfo(dtype).eps
        # NumPy's product: no setting of torch can make it less precise than float32.
        lower_SC = torch.from_numpy(a.low[rows_S].numpy() @ b.low.numpy().T)
    else:
        lower_SC = a.precise(rows_S) @ b.precise(slice(None)).T
    margin_S, margin_C = error * (a.norms[rows_S, None] + _UNDERFLOW), error * (b.norms + _UNDERFLOW)
    lower_SC.mul_(-2).add_((a.norms[rows_S, None] - margin_S).to(dtype)).add_((b.norms - margin_C).to(dtype))
    return lower_SC, 2 * margin_S, 2 * margin_C


def _precisions(a: Shifted, b: Shifted) -> list[torch.dtype]:
    """The precisions of bounds to try, in order."""
    return [torch.float64] if a.low is None or b.low is None else [torch.float32, torch.float64]


def _up(bound: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round a bound up to a number of `dtype`."""
    return torch.nextafter(bound.to(dtype), torch.tensor(torch.inf, dtype=dtype, device=bound.device))


def nearest_pairs(
    a: Shifted, strip: slice, b: Shifted, reach_S: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(q [P], c [P]), q ascending: pairs that may be among the k + 1 nearest of a query, within `reach_S`."""
    # A reach of 0 is final: identical rows need not be compared one by one.
    reach_S = torch.where(reach_S > 0, reach_S, -torch.inf)
    for dtype in _precisions(a, b):
        lower_SC, slack_S, slack_C = _bounds(a, strip, b, dtype)
        near = ~(lower_SC > _up(reach_S, dtype)[:, None])  # NaN, from an overflow, is undecided
        # With many near pairs, these centres themselves give a tighter bound.
        if lower_SC.shape[1] > k and near.count_nonzero() > 8 * (k + 1) * len(near):
            lower_SK, c_SK = lower_SC.topk(k + 1, largest=False)
            upper_S = (lower_SK + slack_S + slack_C[c_SK]).amax(dim=1)
            near &= ~(lower_SC > _up(upper_S, dtype)[:, None])
        if dtype == torch.float64 or near.count_nonzero() <= _UNCLEAR * len(near):
            break
    q, c = torch.nonzero(near, as_tuple=True)
    return q, c


def open_pairs(
    a: Shifted, rows_S: torch.Tensor, b: Shifted, radii_C: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(inside [S], q [P], c [P]): True for queries that are certainly inside a ball, and the pairs of the
    other queries that need exact distances."""
    for dtype in _precisions(a, b):
        lower_SC, slack_S, slack_C = _bounds(a, rows_S, b, dtype)
        near = ~(lower_SC > _up(radii_C, dtype))
        lower_SC += _up(slack_S, dtype)
        inside = (lower_SC <= -_up(slack_C - radii_C, dtype)).any(dim=1)
        near &= ~inside[:, None]
        if dtype == torch.float64 or near.count_nonzero() <= _UNCLEAR * len(near):
            break
    q, c = torch.nonzero(near, as_tuple=True)
    return inside, q, c


def smallest_of(smallest_QK: torch.Tensor, q_P: torch.Tensor, values_P: torch.Tensor) -> torch.Tensor:
    """The K smallest values per row, ascending, of `smallest_QK` and `values_P`, whose rows are `q_P`."""
    if not len(q_P):
        return smallest_QK
    count_Q = torch.bincount(q_P, minlength=len(smallest_QK))
    column_P = torch.arange(len(q_P), device=q_P.device) - (count_Q.cumsum(0) - count_Q)[q_P]
    values = smallest_QK.new_full((len(smallest_QK), int(count_Q.max())), torch.inf)
    values[q_P, column_P] = values_P
    return torch.cat([smallest_QK, values], dim=1).topk(smallest_QK.shape[1], largest=False).values


def squared_distance(
    a: torch.Tensor, rows_P: torch.Tensor, b: torch.Tensor, columns_P: torch.Tensor
) -> torch.Tensor:
    """Squared distance [P] of the pairs a[rows], b[columns], from float64 differences.

    The squares are added by halves, since the order of a device's own reduction depends on the shape.
    """
    distances = []
    chunk = max(1, _PAIR_ELEMENTS // a.shape[1])
    for rows, columns in zip(rows_P.split(chunk), columns_P.split(chunk), strict=True):
        terms_PD = (a[rows].double() - b[columns].double()).square()
        while (width := terms_PD.shape[1]) > 1:
            half = width // 2
            halves = terms_PD[:, :half] + terms_PD[:, half : 2 * half]
            terms_PD = halves if width % 2 == 0 else torch.cat([halves, terms_PD[:, 2 * half :]], dim=1)
        distances.append(terms_PD[:, 0])
    return torch.cat(distances) if distances else torch.empty(0, dtype=torch.float64, device=a.device)

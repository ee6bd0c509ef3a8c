"""Improved precision and recall (Kynkäänniemi et al. 2019), exact and in bounded memory.

Promises: the counts that float64 squared differences give, ties counted as inside; the same bits for every block size, row order and
device, since a fast matrix product only sorts out the clear cases: what is within its rounding error is computed again one way everywhere.
Leaves to others: which features these are, and how many (10,000 reference images against 50,000 samples in the `adm` protocol).
"""

from dataclasses import dataclass

import numpy as np
import torch

from dgflow.metrics.rows import checked_rows

# Shape suffixes: Q queries, C centres, P pairs of them, D features.
_PAIR_ELEMENTS = 2**22  # pairs x features held at once by the exact distances: 32 MiB an array


@dataclass(frozen=True)
class PrecisionRecall:
    """precision: share of the fakes inside the reals' manifold; recall: share of the reals inside the fakes' manifold; both in [0, 1]."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Harmonic mean of the two, 0 where both are 0."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def precision_recall(
    real_ND: np.ndarray, fake_MD: np.ndarray, k: int = 3, device: torch.device | str = "cpu", block_size: int = 1024
) -> PrecisionRecall:
    """Precision and recall of the fakes with k nearest neighbours.

    A manifold is the union of the closed balls around its samples, each reaching its sample's k-th nearest other sample. Costs about
    2 D (N^2 + M^2 + 2 N M) operations in float64; memory beyond the features is a few blocks of block_size x max(block_size, D) numbers.
    Raises ValueError if a row is not finite, the dimensions differ or a side has fewer than k + 1 rows.
    """
    real, fake = _on_device(real_ND, "real features", device), _on_device(fake_MD, "fake features", device)
    real_radii, fake_radii = _squared_radii(real, k, block_size), _squared_radii(fake, k, block_size)
    return PrecisionRecall(
        precision=float(_inside_any_ball(fake, real, real_radii, block_size).double().mean()),
        recall=float(_inside_any_ball(real, fake, fake_radii, block_size).double().mean()),
    )


def squared_radii(features_ND: np.ndarray, k: int = 3, device: torch.device | str = "cpu", block_size: int = 1024) -> np.ndarray:
    """Squared distance [N] of each row to its k-th nearest other row, the (k + 1)-th smallest with itself. Errors as `precision_recall`."""
    return _squared_radii(_on_device(features_ND, "features", device), k, block_size).cpu().numpy()


def inside_any_ball(
    queries_QD: np.ndarray, centres_CD: np.ndarray, squared_radii_C: np.ndarray, device: torch.device | str = "cpu", block_size: int = 1024
) -> np.ndarray:
    """Whether [Q] each query lies in a closed ball around some centre. Errors as `precision_recall`."""
    queries, centres = _on_device(queries_QD, "queries", device), _on_device(centres_CD, "centres", device)
    if np.shape(squared_radii_C) != (len(centres),):
        raise ValueError(f"expected one squared radius a centre, shape [{len(centres)}], found shape {list(np.shape(squared_radii_C))}")
    radii = torch.tensor(squared_radii_C, dtype=torch.float64, device=device)
    return _inside_any_ball(queries, centres, radii, block_size).cpu().numpy()


def _on_device(features: np.ndarray, what: str, device: torch.device | str) -> torch.Tensor:
    # Torch warns of arrays that it could write to and must not, such as those that Parquet hands out: copied then, and only then.
    return torch.from_numpy(np.require(checked_rows(features, what), requirements=["C", "W"])).to(device)


def _squared_radii(features: torch.Tensor, k: int, block_size: int) -> torch.Tensor:
    if not 1 <= k < len(features):
        raise ValueError(f"expected k >= 1 and at least k + 1 = {k + 1} rows of features, found {len(features)}; use more samples")
    origin = _origin(features)
    indices = torch.arange(len(features), device=features.device)
    radii = []
    for rows in indices.split(block_size):
        smallest = torch.full((len(rows), k + 1), torch.inf, dtype=torch.float64, device=features.device)
        for columns in indices.split(block_size):
            lower, slack = _bounds(features[rows], features[columns], origin)
            reach = smallest[:, -1:]
            near = (lower <= reach) & (reach > 0)  # a radius of 0 is final: collapsed samples need not be compared one by one
            if len(columns) > k and near.sum() > 8 * (k + 1) * len(rows):  # the first block, and one that is much nearer than those before
                near &= lower <= (lower + slack).topk(k + 1, largest=False).values[:, -1:]
            q, c = torch.nonzero(near, as_tuple=True)
            smallest = _smallest(smallest, q, _squared_distance(features, rows[q], features, columns[c]))
        radii.append(smallest[:, -1])
    return torch.cat(radii)


def _smallest(smallest_QK: torch.Tensor, q_P: torch.Tensor, values_P: torch.Tensor) -> torch.Tensor:
    """The K smallest of each row of `smallest_QK` and of the values that belong to it; `q_P`, their rows, ascends."""
    count_Q = torch.bincount(q_P, minlength=len(smallest_QK))
    place_P = torch.arange(len(q_P), device=q_P.device) - (count_Q.cumsum(0) - count_Q)[q_P]
    added = torch.full((len(smallest_QK), int(count_Q.max())), torch.inf, dtype=torch.float64, device=q_P.device)
    added[q_P, place_P] = values_P
    return torch.cat([smallest_QK, added], dim=1).topk(smallest_QK.shape[1], largest=False).values


def _inside_any_ball(queries: torch.Tensor, centres: torch.Tensor, squared_radii: torch.Tensor, block_size: int) -> torch.Tensor:
    if queries.shape[1] != centres.shape[1]:
        raise ValueError(f"expected features of one dimension, found {queries.shape[1]} and {centres.shape[1]}; use one network's layer")
    origin = _origin(centres)
    inside = torch.zeros(len(queries), dtype=torch.bool, device=queries.device)
    for rows in torch.arange(len(queries), device=queries.device).split(block_size):
        for columns in torch.arange(len(centres), device=queries.device).split(block_size):
            rows = rows[~inside[rows]]  # one ball is enough
            lower, slack = _bounds(queries[rows], centres[columns], origin)
            radii = squared_radii[columns]
            clear = (lower + slack <= radii).any(dim=1)
            q, c = torch.nonzero((lower <= radii) & ~clear[:, None], as_tuple=True)
            clear[q[_squared_distance(queries, rows[q], centres, columns[c]) <= radii[c]]] = True
            inside[rows] = clear
    return inside


def _origin(features: torch.Tensor) -> torch.Tensor:
    """A point amid the features: distances from it are small, and so is the rounding error of `_bounds`. Any point is correct."""
    return features[:4096].double().mean(dim=0)


def _bounds(a_QD: torch.Tensor, b_CD: torch.Tensor, origin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(lower, slack), both [Q, C]: every `_squared_distance` lies in [lower, lower + slack].

    From |a|^2 + |b|^2 - 2 a.b. A sum of D products rounds by at most about D eps / 2 of the sum of their magnitudes (Higham 2002, section
    3.1), here at most |a|^2 + |b|^2; 4 (D + 8) eps of that covers the three sums, the shift of origin and the rounding of the exact form.
    """
    a_QD, b_CD = a_QD.double() - origin, b_CD.double() - origin
    norms = a_QD.square().sum(dim=1)[:, None] + b_CD.square().sum(dim=1)[None, :]
    error = 4 * (a_QD.shape[1] + 8) * torch.finfo(torch.float64).eps
    return torch.addmm(norms, a_QD, b_CD.T, beta=1 - error, alpha=-2), norms.mul_(2 * error)


def _squared_distance(a: torch.Tensor, rows_P: torch.Tensor, b: torch.Tensor, columns_P: torch.Tensor) -> torch.Tensor:
    """Squared distance [P] of the pairs a[rows], b[columns], from float64 differences added in one fixed order on every device."""
    distances = []
    chunk = max(1, _PAIR_ELEMENTS // a.shape[1])
    for rows, columns in zip(rows_P.split(chunk), columns_P.split(chunk), strict=True):
        terms_PD = (a[rows].double() - b[columns].double()).square()
        while (width := terms_PD.shape[1]) > 1:  # halves added: a device's own reduction chooses its order by the shape
            half = width // 2
            halves = terms_PD[:, :half] + terms_PD[:, half : 2 * half]
            terms_PD = halves if width % 2 == 0 else torch.cat([halves, terms_PD[:, 2 * half :]], dim=1)
        distances.append(terms_PD[:, 0])
    return torch.cat(distances) if distances else torch.empty(0, dtype=torch.float64, device=a.device)

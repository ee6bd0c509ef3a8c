"""Checks that a matrix can be a covariance."""

from __future__ import annotations

import numpy as np

_ASYMMETRY = 1e-6  # tolerance relative to the largest element, since some statistics were computed in float32
_INDEFINITE = 1e-4  # tolerance for negative eigenvalues relative to the largest element


def covariance_fault(covariance_DD: np.ndarray) -> str:
    """Returns the reason why a finite float64 matrix cannot be a covariance, phrased to follow "a matrix
    that"; else ""."""
    scale = float(np.abs(covariance_DD).max(initial=0))
    if not scale:
        return ""
    gaps_DD = np.abs(covariance_DD - covariance_DD.T)
    if gaps_DD.max() > _ASYMMETRY * scale:
        i, j = (int(place) for place in np.unravel_index(gaps_DD.argmax(), gaps_DD.shape))
        pair = f"[{i}, {j}] is {covariance_DD[i, j]:.6g}, [{j}, {i}] is {covariance_DD[j, i]:.6g}"
        return f"is not symmetric: {pair}"
    variances_D = covariance_DD.diagonal()
    if variances_D.min() < -_ASYMMETRY * scale:
        return f"has a variance < 0: {variances_D.min():.6g} of feature {int(variances_D.argmin())}"
    try:
        np.linalg.cholesky(covariance_DD + _INDEFINITE * scale * np.eye(len(covariance_DD)))
    except np.linalg.LinAlgError:
        lowest = float(np.linalg.eigvalsh(covariance_DD)[0])
        if lowest < -_INDEFINITE * scale:
            return f"is not positive semidefinite: its lowest eigenvalue is {lowest:.6g}"
    return ""

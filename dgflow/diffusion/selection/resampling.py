"""Weights of particles, and resampling by them.

Arrays are [samples, particles] float64 on the host, so that what is decided by them has the same bits on
every device.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

CLIP = math.log((1.0 - 1e-6) / 1e-6)
"""Bound of a log-ratio, 13.8155: that of a probability in [1e-6, 1 - 1e-6] (Liu et al. 2023)."""

Scheme = Literal["systematic", "multinomial"]


def normalised(log_weights: np.ndarray) -> np.ndarray:
    """Weights whose sum over a sample's particles is 1."""
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def log_mean(log_weights: np.ndarray) -> np.ndarray:
    """The logarithm [samples] of a sample's mean weight."""
    largest = log_weights.max(axis=1)
    return largest + np.log(np.exp(log_weights - largest[:, None]).mean(axis=1))


def effective_size(weights: np.ndarray) -> np.ndarray:
    """1 / sum of squared weights [samples]: the number of particles that count, 1 to all of them."""
    return 1.0 / np.square(weights).sum(axis=1)


def chosen(weights: np.ndarray, uniforms: np.ndarray, scheme: Scheme) -> np.ndarray:
    """The particles, int64 [samples, particles], that take the places of a sample's.

    Particle j is expected as often as its weight times their number. "multinomial" draws each place by
    itself; "systematic" places a comb of equal distances by the first uniform alone (Kitagawa 1996), so that
    a particle's number is never off by one or more.
    """
    count = weights.shape[1]
    if scheme == "systematic":
        uniforms = (np.arange(count) + uniforms[:, :1]) / count
    # The first whose cumulative weight is above the uniform.
    above = weights.cumsum(axis=1)[:, None, :] <= uniforms[:, :, None]
    return above.sum(axis=2).clip(max=count - 1)

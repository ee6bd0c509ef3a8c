"""Weights of particles, and resampling by weight.

Arrays are float64 [samples, particles] on the host, so decisions are the same on every device.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

CLIP = math.log((1.0 - 1e-6) / 1e-6)
"""Bound of a log-ratio, 13.8155, for a probability in [1e-6, 1 - 1e-6] (Liu et al. 2023)."""

Scheme = Literal["systematic", "multinomial"]


def normalised(log_weights: np.ndarray) -> np.ndarray:
    """Normalise weights to sum 1 over a sample's particles."""
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def log_mean(log_weights: np.ndarray) -> np.ndarray:
    """The logarithm [samples] of a sample's mean weight."""
    largest = log_weights.max(axis=1)
    return largest + np.log(np.exp(log_weights - largest[:, None]).mean(axis=1))


def effective_size(weights: np.ndarray) -> np.ndarray:
    """The effective number of particles [samples], 1 / sum of squared weights: from 1 to all."""
    return 1.0 / np.square(weights).sum(axis=1)


def chosen(weights: np.ndarray, uniforms: np.ndarray, scheme: Scheme) -> np.ndarray:
    """Choose the particles, int64 [samples, particles], that replace a sample's particles.

    The expected count of particle j is its weight times the number of particles. "multinomial" draws each
    position independently; "systematic" places an equidistant comb by the first uniform only (Kitagawa 1996),
    so a particle's count differs from its expectation by less than one.
    """
    count = weights.shape[1]
    if scheme == "systematic":
        uniforms = (np.arange(count) + uniforms[:, :1]) / count
    # The first particle whose cumulative weight exceeds the uniform.
    above = weights.cumsum(axis=1)[:, None, :] <= uniforms[:, :, None]
    return above.sum(axis=2).clip(max=count - 1)

"""The linear variance-preserving diffusion on Python numbers, for specs, which do not load torch. `times` has
the maps for tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class LinearVP:
    """A linear variance-preserving diffusion: beta(tau) = beta_0 + (beta_1 - beta_0) tau.

    variance_0: variance of the noise at tau = 0 (LSGM's sigma2_0). With x0 in units of
        1 / sqrt(1 - variance_0), as here, it only shifts B, by -log(1 - variance_0), and y = mean * x0 +
        std * z with mean^2 + std^2 = 1 still holds.
    """

    beta_0: float = 0.1
    beta_1: float = 20.0
    variance_0: float = 0.0

    def __post_init__(self) -> None:
        if not (0.0 < self.beta_0 < self.beta_1 < math.inf and 0.0 <= self.variance_0 < 1.0):
            raise ValueError(f"expected 0 < beta_0 < beta_1 and 0 <= variance_0 < 1, found {self}")

    @property
    def slope(self) -> float:
        return self.beta_1 - self.beta_0

    @property
    def start(self) -> float:
        """B(0)."""
        return -math.log1p(-self.variance_0)

    def level(self, tau: float) -> float:
        """The EDM noise level sqrt(exp(B) - 1) of a time in [0, 1]."""
        return math.sqrt(math.expm1(tau * (self.beta_0 + 0.5 * self.slope * tau) + self.start))

    def time(self, level: float) -> float:
        """The time of an EDM noise level: the inverse of `level`."""
        grown = math.log1p(level * level) - self.start
        return 2.0 * grown / (self.beta_0 + math.sqrt(self.beta_0**2 + 2.0 * self.slope * grown))


LINEAR_VP = LinearVP()
"""The linear VP diffusion of score_sde, LSGM and Kim et al. 2023."""

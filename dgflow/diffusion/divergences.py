"""Weights of score matching from f-divergences."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from dgflow.diffusion.weighting_specs import Divergence

_POWERS = {"chi-squared": 1.0, "hellinger": -0.5, "kl": 0.0, "reverse-kl": -1.0}
"""Exponent of the ratio in the weight, by divergence."""


def divergence_weight(log_ratio: Tensor, divergence: Divergence, largest: float) -> Tensor:
    """Weights [B], float64, of the denoising errors of real samples (`RatioWeighting`): r f''(r), which is 1
    at r = 1, between 1 / largest and largest.

    Args:
        log_ratio: log r [B], with r the ratio of real to model density at the noisy sample.
        largest: >= 1.
    """
    log_ratio = log_ratio.double()
    if divergence == "jensen-shannon":
        log_weight = math.log(2.0) + F.logsigmoid(-log_ratio)  # 2 / (1 + r)
    else:
        log_weight = _POWERS[divergence] * log_ratio
    return log_weight.clamp(-math.log(largest), math.log(largest)).exp()

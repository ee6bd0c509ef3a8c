"""Combine several discriminators into one log-ratio: the mean log-ratio, or the log-ratio of the mean
probability.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from dgflow.diffusion.guidance import at_least_float32
from dgflow.diffusion.guidance_settings import Combine

MemberLogRatios = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(y [B, ...] float32 in linear-VP scaling, its time [B] float32, class labels) -> logits [K, B] of K
members."""


@dataclass(frozen=True)
class EnsembleLogRatio:
    """The combined log-ratio of `members`, usable like one discriminator's: a
    `discriminator_guidance.LogRatio`.
    """

    members: MemberLogRatios
    combine: Combine = "logits"

    def __call__(self, y: Tensor, time_B: Tensor, class_labels: Tensor | None) -> Tensor:
        """Logit [B]. Raises ValueError unless every member has one logit per sample."""
        logits_KB = self.members(y, time_B, class_labels)
        if logits_KB.ndim != 2 or logits_KB.shape[1] != len(y):
            raise ValueError(
                f"expected the members' logits as [members, {len(y)}], found {list(logits_KB.shape)}: check "
                "the heads"
            )
        return combined(logits_KB, self.combine)


def combined(logits_KB: Tensor, combine: Combine) -> Tensor:
    """Combine the members' logits [K, B] into one log-ratio [B], in at least float32.

    "logits" is their mean: the ratio is the geometric mean of the members' ratios, a product of experts, and
    the gradient the mean of their gradients. "probabilities" is logit(mean of sigmoid(logit)) (Kleger &
    Sartor, equation 3), as the difference of two log-sum-exps of log-sigmoids: no member saturates, in value
    or gradient, for any logit. It is computed in float64, since in float32 the gradient would be off by 1e-5
    at logits of 300. A single member is returned unchanged.
    """
    logits_KB = at_least_float32(logits_KB)
    if len(logits_KB) == 1:
        return logits_KB[0]
    if combine == "logits":
        return logits_KB.mean(dim=0)
    real, fake = (F.logsigmoid(sign * logits_KB.double()).logsumexp(dim=0) for sign in (1, -1))
    return (real - fake).to(logits_KB.dtype)

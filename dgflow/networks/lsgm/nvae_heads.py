"""Output heads of LSGM's NVAE: compute the mean image, in [-1, 1], from the decoder's logits. The mixture of
logistics with linear dependence between colours is that of PixelCNN++ (Salimans et al. 2017).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dgflow.networks.lsgm.nvae_layers import soft_clamp

NUM_MIXTURES = 10
"""Components of published mixtures."""
PER_MIXTURE = 10
"""Logit channels per component: its logit, and mean, log-scale and coefficient for three colours."""
HEAD_CHANNELS = {"dml": PER_MIXTURE * NUM_MIXTURES, "normal": 6, "dl": 6, "bin": 1}
"""Logit channels of each `decoder_dist`: mixture of discretised logistics, normal, discretised logistic,
Bernoulli."""
IMAGE_CHANNELS = {"dml": 3, "normal": 3, "dl": 3, "bin": 1}


class LogisticMixture(NamedTuple):
    """The parameters for the mixture's means; the scales, needed only for a likelihood, are omitted."""

    logits_BMHW: Tensor
    """Unnormalised log-probabilities of the M components."""
    means_BCMHW: Tensor
    """Means of the C = 3 colours."""
    coefficients_BCMHW: Tensor
    """Coefficients in (-1, 1): of green on red, of blue on red, of blue on green."""


def logistic_mixture(logits_BCHW: Tensor) -> LogisticMixture:
    """Split 10 M logit channels: M mixture logits, then M means, log-scales and coefficients per colour."""
    mixtures = logits_BCHW.shape[1] // PER_MIXTURE
    rest = logits_BCHW[:, mixtures:].unflatten(1, (3, 3 * mixtures))
    means, _, coefficients = rest.split(mixtures, dim=2)
    return LogisticMixture(logits_BCHW[:, :mixtures], means, coefficients.tanh())


def image_mean(decoder_dist: str, logits_BCHW: Tensor) -> Tensor:
    """Mean image [B, C, H, W] of a head, in [-1, 1], except for "normal" and "dl", whose means may lie
    outside.

    Args:
        decoder_dist: one of `HEAD_CHANNELS`.
        logits_BCHW: logits with the channels stated there; "dml" has 10 per component.

    Raises:
        ValueError: the head is unknown.
    """
    if decoder_dist == "dml":
        return _mixture_mean(logistic_mixture(logits_BCHW))
    if decoder_dist == "normal":
        return soft_clamp(logits_BCHW, 5.0)[:, :3]
    if decoder_dist == "dl":
        return logits_BCHW[:, :3]
    if decoder_dist == "bin":
        return 2 * logits_BCHW.sigmoid() - 1
    raise ValueError(f"expected decoder_dist to be one of {', '.join(HEAD_CHANNELS)}, found {decoder_dist!r}")


def _mixture_mean(mixture: LogisticMixture) -> Tensor:
    """Each colour's mean, with its dependence on the preceding colours applied to their clipped means."""
    weights = mixture.logits_BMHW.softmax(dim=1)[:, None]
    mean_red, mean_green, mean_blue = (weights * mixture.means_BCMHW).sum(dim=2).unbind(1)
    green_red, blue_red, blue_green = (weights * mixture.coefficients_BCMHW).sum(dim=2).unbind(1)
    red = mean_red.clamp(-1, 1)
    green = (mean_green + green_red * red).clamp(-1, 1)
    blue = (mean_blue + blue_red * red + blue_green * green).clamp(-1, 1)
    return torch.stack([red, green, blue], dim=1)

"""Training losses per sample [B]. Real = 1, fake = 0."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dgflow.diffusion.samplers import Denoiser
from dgflow.diffusion.times import mean_std, per_sample

DiscriminatorLoss = Literal["bce", "lsif", "ukl"]

AS_PUBLISHED = {"lsif": 5.0, "ukl": 10.0}
"""|logit| up to which the losses "lsif" and "ukl" are as published. No slope exceeds exp(10) = 22,026."""


def lognormal_sigma(normal: Tensor, P_mean: float = -1.2, P_std: float = 1.2) -> Tensor:
    """EDM's training noise levels from unit normals (Karras et al. 2022, Table 1)."""
    return torch.exp(P_mean + P_std * normal)


def edm_loss(
    denoiser: Denoiser,
    images: Tensor,
    sigma: Tensor,
    noise: Tensor,
    class_labels: Tensor | None = None,
    sigma_data: float = 0.5,
) -> Tensor:
    """Weighted denoising error [B], averaged over pixels (Karras et al. 2022, equation 8).

    Args:
        images: clean [B, C, H, W] in [-1, 1].
        sigma: [B] > 0.
        noise: unit normals like images.
    """
    weight = (sigma.square() + sigma_data**2) / (sigma * sigma_data).square()
    denoised = denoiser(images + per_sample(sigma, images) * noise, sigma, class_labels)
    return weight * (denoised - images).square().flatten(1).mean(1)


def perturb(images: Tensor, tau: Tensor, noise: Tensor) -> Tensor:
    """y = mean * x0 + std * noise at linear-VP times tau [B]: the input of classifiers and discriminators."""
    mean, std = mean_std(tau)
    return per_sample(mean, images) * images + per_sample(std, images) * noise


def discriminator_loss(logit: Tensor, is_real: Tensor, kind: DiscriminatorLoss = "bce") -> Tensor:
    """Bregman loss [B] of log-ratio estimates: its mean over equal numbers of real and fake samples is
    minimal at log(p_real / p_fake) (Kim et al. 2023, appendix B).

    Every such loss has the slope -a(logit) on real and a(logit) exp(logit) on fake samples, for a positive
    weight a that defines the loss: 1 / (1 + exp(logit)) for "bce", 1 for "ukl", exp(logit) for "lsif". Beyond
    `AS_PUBLISHED` the weights of "lsif" and "ukl" continue like those of "bce": they decay as exp(-logit)
    above, and are constant below. The slope therefore stays bounded and does not vanish on the wrong side,
    and the minimum is unchanged.

    Args:
        logit: [B], the estimated log-ratio.
        is_real: [B], bool or 0 and 1.
        kind: with r = exp(logit): "bce" softplus(-+logit); "lsif" r^2 / 2 for fake, -r for real; "ukl" r for
            fake, -logit for real.

    Returns the dtype of `logit` for "bce", float64 for the others, so that no float32 logit overflows.
    """
    real = is_real.to(torch.bool)
    if kind == "bce":
        return torch.where(real, F.softplus(-logit), F.softplus(logit))
    if kind not in AS_PUBLISHED:
        raise ValueError(f'expected kind "bce", "lsif" or "ukl", found {kind!r}')
    edge = AS_PUBLISHED[kind]
    logit = logit.double()
    # The slope of clamp exactly at an edge differs between versions of torch.
    inner = torch.where(logit.abs() <= edge, logit, logit.detach().clamp(-edge, edge))
    above, below = F.relu(logit - edge), F.relu(-edge - logit)
    if kind == "lsif":
        on_real, on_fake = -inner.exp(), 0.5 * (2.0 * inner).exp()
        high, low = math.exp(edge), math.exp(-edge)  # the weights at the edges
    else:
        on_real, on_fake = -inner, inner.exp()
        high = low = 1.0
    # The integrals of the slopes beyond the edges. expm1 is not used, since torch computes its slope from a
    # difference.
    on_real = on_real + high * ((-above).exp() - 1.0) + low * below
    on_fake = on_fake + high * math.exp(edge) * above + low * math.exp(-edge) * ((-below).exp() - 1.0)
    return torch.where(real, on_real, on_fake)


def classifier_loss(logits: Tensor, class_labels: Tensor) -> Tensor:
    """Cross-entropy [B] of logits [B, K] for int64 class labels [B]."""
    return F.cross_entropy(logits, class_labels, reduction="none")

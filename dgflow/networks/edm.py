"""Preconditioners: a raw network F becomes a denoiser D(x, sigma, labels) in the EDM convention, D = c_skip x + c_out F(c_in x, c_noise).

Each is the published one (Karras et al. 2022, table 1) with the published numbers, float32 formulas included, since the networks were
trained with them. x and sigma are cast to float32 and the result is float32. A preconditioner holds the network as `model`, so that
state dicts have the published prefix. Noise schedules, guidance and sampling are left to others.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgflow.networks.song import SongUNet

__all__ = ["EDMPrecond", "SongUNet", "VEPrecond", "VPPrecond"]


class Coefficients(NamedTuple):
    """Of one noise level or of a batch of them, [B, 1, 1, 1]; plain numbers where the preconditioner has constants."""

    c_skip: Tensor | float
    c_out: Tensor
    c_in: Tensor | float
    c_noise: Tensor


class EDMPrecond(nn.Module):
    """EDM's preconditioning, which keeps inputs and training targets at unit variance. sigma from 0 to infinity.

    Args:
        sigma_data: standard deviation of the training images.
    """

    def __init__(self, model: SongUNet, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim = model.img_resolution, model.img_channels, model.label_dim
        self.sigma_min, self.sigma_max, self.sigma_data = 0.0, math.inf, sigma_data
        self.model = model

    def coefficients(self, sigma: Tensor) -> Coefficients:
        total = sigma**2 + self.sigma_data**2
        return Coefficients(self.sigma_data**2 / total, sigma * self.sigma_data / total.sqrt(), 1 / total.sqrt(), sigma.log() / 4)

    def forward(self, x_BCHW: Tensor, sigma: Tensor, class_labels: Tensor | None = None, augment_labels: Tensor | None = None) -> Tensor:
        """Denoised images, float32 [B, C, H, W].

        Args:
            x_BCHW: images plus noise of standard deviation sigma, any float dtype.
            sigma: [B], [1] or 0-d.
            class_labels: int64 [B] or one-hot [B, label_dim]; None stands for no class. An unconditional network ignores them.
            augment_labels: [B, augment_dim] for training on augmented images, None for clean ones.
        """
        return _denoise(self, x_BCHW, sigma, class_labels, augment_labels)

    def round_sigma(self, sigma: float | Tensor) -> Tensor:
        """The nearest sigma that the network knows: any, so `sigma` itself."""
        return torch.as_tensor(sigma)


class VPPrecond(nn.Module):
    """Variance preserving, of Song et al. 2021 (DDPM++): the network predicts noise, and its condition is the step in 0..M-1.

    Args:
        beta_d, beta_min: slope and offset of the linear beta(t), t in [0, 1].
        M: number of steps that the condition is scaled to.
        epsilon_s: smallest time, which gives sigma_min.
    """

    def __init__(self, model: SongUNet, beta_d: float = 19.9, beta_min: float = 0.1, M: int = 1000, epsilon_s: float = 1e-5) -> None:
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim = model.img_resolution, model.img_channels, model.label_dim
        self.beta_d, self.beta_min, self.M = beta_d, beta_min, M
        # In float32 as published: 2^-10 and 152.167 at the defaults. The cpu is named so that building on the meta device works.
        self.sigma_min = float(self.sigma(torch.tensor(epsilon_s, dtype=torch.float32, device="cpu")))
        self.sigma_max = float(self.sigma(torch.tensor(1.0, dtype=torch.float32, device="cpu")))
        self.model = model

    def sigma(self, t: Tensor) -> Tensor:
        """Noise level at time t in [0, 1]."""
        return ((self.beta_d * t**2 / 2 + self.beta_min * t).exp() - 1).sqrt()

    def sigma_inv(self, sigma: Tensor) -> Tensor:
        """Time in [0, 1] of a noise level. Not log1p: the networks were trained with float32's rounding of 1 + sigma^2."""
        return ((self.beta_min**2 + 2 * self.beta_d * (1 + sigma**2).log()).sqrt() - self.beta_min) / self.beta_d

    def coefficients(self, sigma: Tensor) -> Coefficients:
        return Coefficients(1.0, -sigma, 1 / (sigma**2 + 1).sqrt(), (self.M - 1) * self.sigma_inv(sigma))

    def forward(self, x_BCHW: Tensor, sigma: Tensor, class_labels: Tensor | None = None, augment_labels: Tensor | None = None) -> Tensor:
        """Denoised images, float32 [B, C, H, W]. Arguments as for `EDMPrecond`."""
        return _denoise(self, x_BCHW, sigma, class_labels, augment_labels)

    def round_sigma(self, sigma: float | Tensor) -> Tensor:
        """The nearest sigma that the network knows: any, so `sigma` itself."""
        return torch.as_tensor(sigma)


class VEPrecond(nn.Module):
    """Variance exploding, of Song et al. 2021 (NCSN++): the network predicts the scaled score, its condition is ln(sigma / 2)."""

    def __init__(self, model: SongUNet, sigma_min: float = 0.02, sigma_max: float = 100.0) -> None:
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim = model.img_resolution, model.img_channels, model.label_dim
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.model = model

    def coefficients(self, sigma: Tensor) -> Coefficients:
        return Coefficients(1.0, sigma, 1.0, (sigma / 2).log())

    def forward(self, x_BCHW: Tensor, sigma: Tensor, class_labels: Tensor | None = None, augment_labels: Tensor | None = None) -> Tensor:
        """Denoised images, float32 [B, C, H, W]. Arguments as for `EDMPrecond`."""
        return _denoise(self, x_BCHW, sigma, class_labels, augment_labels)

    def round_sigma(self, sigma: float | Tensor) -> Tensor:
        """The nearest sigma that the network knows: any, so `sigma` itself."""
        return torch.as_tensor(sigma)


def _denoise(
    precond: EDMPrecond | VPPrecond | VEPrecond, x: Tensor, sigma: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None
) -> Tensor:
    x = x.to(torch.float32)
    c_skip, c_out, c_in, c_noise = precond.coefficients(sigma.to(torch.float32).reshape(-1, 1, 1, 1))
    labels = one_hot_labels(class_labels, precond.label_dim, x.device)
    return c_skip * x + c_out * precond.model(c_in * x, c_noise.flatten(), labels, augment_labels)


def one_hot_labels(class_labels: Tensor | None, label_dim: int, device: torch.device) -> Tensor | None:
    """Float32 rows for the network: None if it has no classes, zeros [1, label_dim] if no labels are given.

    Raises:
        ValueError: labels that are neither int64 [B] nor rows [B, label_dim].
    """
    if label_dim == 0:
        return None
    if class_labels is None:
        return torch.zeros(1, label_dim, device=device)
    if class_labels.ndim == 1 and not class_labels.is_floating_point():
        return F.one_hot(class_labels.long(), label_dim).to(torch.float32)
    if class_labels.ndim != 2 or class_labels.shape[1] != label_dim:
        found = f"{class_labels.dtype} {list(class_labels.shape)}"
        raise ValueError(f"class_labels must be int64 [B] or one-hot [B, {label_dim}], found {found}")
    return class_labels.to(torch.float32)

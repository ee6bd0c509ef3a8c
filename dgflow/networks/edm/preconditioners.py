"""Preconditioners (Karras et al. 2022, table 1): a raw network F becomes a denoiser D(x, sigma, labels) =
c_skip x + c_out F(c_in x, c_noise).

The formulas are the published ones, including their float32 rounding, since the networks were trained with
it. x, sigma, the coefficients and the result are float32; only the network may have another precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self, TypeVar

import torch
from torch import Tensor, nn

from dgflow.diffusion.score_model import first_outside
from dgflow.networks.edm.dhariwal import DhariwalUNetModule
from dgflow.networks.edm.song import SongUNetModule
from dgflow.networks.labels import one_hot_labels
from dgflow.networks.precision import kept_wide

Network = SongUNetModule | DhariwalUNetModule
Level = TypeVar("Level", float, Tensor)
"""Noise levels: a number on the host, or a tensor on any device."""


class Coefficients(NamedTuple):
    """Coefficients for one noise level or a batch of them, [B, 1, 1, 1]; constants are plain numbers."""

    c_skip: Tensor | float
    c_out: Tensor
    c_in: Tensor | float
    c_noise: Tensor


class EDMPrecond(nn.Module):
    """EDM's preconditioning, which keeps inputs and training targets at unit variance. Valid for sigma from 0
    to infinity.

    Args:
        sigma_data: standard deviation of the training images.
    """

    def __init__(self, model: Network, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim = (
            model.img_resolution,
            model.img_channels,
            model.label_dim,
        )
        self.sigma_min, self.sigma_max, self.sigma_data = 0.0, math.inf, sigma_data
        self.model = model

    def coefficients(self, sigma: Tensor) -> Coefficients:
        total = sigma**2 + self.sigma_data**2
        return Coefficients(
            self.sigma_data**2 / total,
            sigma * self.sigma_data / total.sqrt(),
            1 / total.sqrt(),
            sigma.log() / 4,
        )

    def forward(
        self,
        x_BCHW: Tensor,
        sigma: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """Denoised images, float32 [B, C, H, W].

        Args:
            x_BCHW: images plus noise of standard deviation sigma, any float dtype.
            sigma: [B], [1] or 0-d.
            class_labels: int64 [B] or one-hot [B, label_dim]; None stands for no class. An unconditional
                network ignores them.
            augment_labels: [B, augment_dim] for training on augmented images, None for clean ones.
        """
        return _denoise(self, x_BCHW, sigma, class_labels, augment_labels)

    def round_sigma(self, sigma: Level) -> Level:
        """Return `sigma`: the network supports every noise level."""
        return sigma


class VPPrecond(nn.Module):
    """Variance-preserving preconditioning of Song et al. 2021 (DDPM++): the network predicts noise, and its
    condition is the step in 0..M-1.

    Args:
        beta_d, beta_min: slope and offset of the linear beta(t), t in [0, 1].
        M: number of steps to which the condition is scaled.
        epsilon_s: smallest time, which gives sigma_min.
    """

    def __init__(
        self,
        model: Network,
        beta_d: float = 19.9,
        beta_min: float = 0.1,
        M: int = 1000,
        epsilon_s: float = 1e-5,
    ) -> None:
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim = (
            model.img_resolution,
            model.img_channels,
            model.label_dim,
        )
        self.beta_d, self.beta_min, self.M, self.epsilon_t = beta_d, beta_min, M, epsilon_s
        # In float32 as published: 2^-10 and 152.167 at the defaults. On the CPU explicitly, so that building
        # on the meta device works.
        self.sigma_min = float(self.sigma(torch.tensor(epsilon_s, dtype=torch.float32, device="cpu")))
        self.sigma_max = float(self.sigma(torch.tensor(1.0, dtype=torch.float32, device="cpu")))
        self.model = model

    def sigma(self, t: Tensor) -> Tensor:
        """Noise level at time t in [0, 1]."""
        return ((self.beta_d * t**2 / 2 + self.beta_min * t).exp() - 1).sqrt()

    def sigma_inv(self, sigma: Tensor) -> Tensor:
        """Time in [0, 1] of a noise level. Not log1p: the networks were trained with float32's rounding of 1
        + sigma^2."""
        return (
            (self.beta_min**2 + 2 * self.beta_d * (1 + sigma**2).log()).sqrt() - self.beta_min
        ) / self.beta_d

    def coefficients(self, sigma: Tensor) -> Coefficients:
        return Coefficients(1.0, -sigma, 1 / (sigma**2 + 1).sqrt(), (self.M - 1) * self.sigma_inv(sigma))

    def forward(
        self,
        x_BCHW: Tensor,
        sigma: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """Denoised images, float32 [B, C, H, W]. Arguments as for `EDMPrecond`."""
        return _denoise(self, x_BCHW, sigma, class_labels, augment_labels)

    def round_sigma(self, sigma: Level) -> Level:
        """Return `sigma`: the network supports every noise level."""
        return sigma


class VEPrecond(nn.Module):
    """Variance-exploding preconditioning of Song et al. 2021 (NCSN++): the network predicts the scaled score,
    and its condition is ln(sigma / 2).
    """

    def __init__(self, model: Network, sigma_min: float = 0.02, sigma_max: float = 100.0) -> None:
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim = (
            model.img_resolution,
            model.img_channels,
            model.label_dim,
        )
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.model = model

    def coefficients(self, sigma: Tensor) -> Coefficients:
        return Coefficients(1.0, sigma, 1.0, (sigma / 2).log())

    def forward(
        self,
        x_BCHW: Tensor,
        sigma: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """Denoised images, float32 [B, C, H, W]. Arguments as for `EDMPrecond`."""
        return _denoise(self, x_BCHW, sigma, class_labels, augment_labels)

    def round_sigma(self, sigma: Level) -> Level:
        """Return `sigma`: the network supports every noise level."""
        return sigma


class iDDPMPrecond(nn.Module):
    """iDDPM's preconditioning (Nichol & Dhariwal 2021): the network predicts noise and supports only the M
    levels of a cosine schedule. C of 2 C outputs are used.

    The state dict holds the levels as `u`: float32 [M + 1], descending, u[M] = 0. The levels stay in float32
    if the network is converted.

    Args:
        C_1: lower bound of the ratio of successive alpha_bar.
        C_2: offset of the cosine.
        M: number of steps.
    """

    u: Tensor

    def __init__(self, model: Network, C_1: float = 0.001, C_2: float = 0.008, M: int = 1000) -> None:
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim = (
            model.img_resolution,
            model.img_channels,
            model.label_dim,
        )
        self.C_1, self.C_2, self.M = C_1, C_2, M
        # In float32 as published. On the CPU explicitly, so that building on the meta device works.
        angles = torch.arange(M + 1, dtype=torch.float32, device="cpu") * (0.5 * math.pi) / M / (C_2 + 1)
        alpha_bar = angles.sin() ** 2
        ratio = (alpha_bar[:-1] / alpha_bar[1:]).clamp_min(C_1)
        u = torch.zeros(M + 1, device="cpu")
        for j in range(M, 0, -1):
            u[j - 1] = ((u[j] ** 2 + 1) / ratio[j - 1] - 1).sqrt()
        self.sigma_min, self.sigma_max = float(u[M - 1]), float(u[0])
        self.register_buffer("u", torch.tensor(u.tolist()))
        self.model = model

    def nearest(self, sigma: Tensor) -> Tensor:
        """Index in `u` of the nearest level; of two equally near levels, the first. int64, shaped like
        sigma.
        """
        return (sigma.to(torch.float32)[..., None] - self.u).abs().argmin(dim=-1)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        return Coefficients(
            1.0, -sigma, 1 / (sigma**2 + 1).sqrt(), (self.M - 1 - self.nearest(sigma)).to(torch.float32)
        )

    def forward(
        self,
        x_BCHW: Tensor,
        sigma: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """Denoised images, float32 [B, C, H, W]. Arguments as for `EDMPrecond`."""
        return _denoise(self, x_BCHW, sigma, class_labels, augment_labels)

    def round_sigma(self, sigma: Level) -> Level:
        """The nearest sigma that the network supports, in sigma's dtype.

        A plain number is rounded on the host, which copies `u` there.
        """
        if isinstance(sigma, Tensor):
            return self.u[self.nearest(sigma)].to(sigma.dtype)
        return float(self.u[self.nearest(torch.tensor(sigma, device=self.u.device))])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        u = self.u
        super()._apply(fn, recurse)
        self.u = kept_wide(u, self.u)
        return self


Denoiser = EDMPrecond | VPPrecond | VEPrecond | iDDPMPrecond


def check_sigmas(denoiser: Denoiser, sigmas: Sequence[float]) -> None:
    """Raise ValueError for a schedule with levels outside the network's range. A last level of 0 is the clean
    image, which never enters the network.

    Args:
        sigmas: noise levels in the order of sampling, on the host.

    Raises:
        ValueError: a level lies outside [sigma_min, sigma_max] by more than float32's rounding, or is not
            positive; the first is named.
    """
    levels = sigmas[:-1] if len(sigmas) and sigmas[-1] == 0 else sigmas
    i = first_outside(levels, denoiser.sigma_min, denoiser.sigma_max)
    if i is not None:
        raise ValueError(
            f"{type(denoiser).__name__}: expected noise levels from {denoiser.sigma_min:.9g} to "
            f"{denoiser.sigma_max:.9g} (and 0 as the last level), found {sigmas[i]:.9g} as level {i} of the "
            "schedule: choose sigma_min and sigma_max of the schedule within that range"
        )


def _denoise(
    precond: Denoiser, x: Tensor, sigma: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None
) -> Tensor:
    x = x.to(torch.float32)
    c_skip, c_out, c_in, c_noise = precond.coefficients(sigma.to(torch.float32).reshape(-1, 1, 1, 1))
    labels = one_hot_labels(class_labels, precond.label_dim, x.device)
    F_x = precond.model(c_in * x, c_noise.flatten(), labels, augment_labels)[:, : precond.img_channels]
    return c_skip * x + c_out * F_x.to(torch.float32)

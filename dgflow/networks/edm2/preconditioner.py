"""EDM2's denoiser: its U-Net under EDM's preconditioning, with the published names, and the learned
uncertainty by which training weights noise levels.

x, sigma, the coefficients and the result are float32; only the network may have another precision.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from dgflow.networks.edm2.layers import MPConv, MPFourier
from dgflow.networks.edm2.unet import UNetModule
from dgflow.networks.labels import one_hot_labels


class Precond(nn.Module):
    """D(x, sigma, labels) = c_skip x + c_out F(c_in x, ln(sigma) / 4, labels), for any sigma above 0.

    Args:
        img_resolution, img_channels: side in pixels and channels of images or latents.
        label_dim: number of classes; 0 for an unconditional network.
        sigma_data: standard deviation of the training images or latents.
        logvar_channels: width of the embedding of which `log_variance` is a linear function.
        unet: the other arguments of `UNetModule`.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int,
        *,
        sigma_data: float = 0.5,
        logvar_channels: int = 128,
        **unet: Any,
    ) -> None:
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim = img_resolution, img_channels, label_dim
        self.sigma_min, self.sigma_max, self.sigma_data = 0.0, math.inf, sigma_data
        self.unet = UNetModule(img_resolution, img_channels, label_dim, **unet)
        self.logvar_fourier = MPFourier(logvar_channels)
        self.logvar_linear = MPConv(logvar_channels, 1)

    def forward(self, x_BCHW: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Denoised images, float32 [B, C, H, W].

        Args:
            x_BCHW: images plus noise of standard deviation sigma, any float dtype.
            sigma: [B], [1] or 0-d.
            class_labels: int64 [B] or one-hot [B, label_dim]; None stands for no class. An unconditional
                network ignores them.
        """
        x, sigma = x_BCHW.to(torch.float32), sigma.to(torch.float32).reshape(-1, 1, 1, 1)
        total = sigma**2 + self.sigma_data**2
        c_skip, c_out = self.sigma_data**2 / total, sigma * self.sigma_data / total.sqrt()
        labels = one_hot_labels(class_labels, self.label_dim, x.device)
        F_x = self.unet(x / total.sqrt(), self._condition(sigma), labels)
        return c_skip * x + c_out * F_x.to(torch.float32)

    def log_variance(self, sigma: Tensor) -> Tensor:
        """The learned logarithm of the weighted loss at noise levels sigma [B], float32 [B]. Used only in
        training: the loss at each level is divided by the exponential.
        """
        return self.logvar_linear(self.logvar_fourier(self._condition(sigma.to(torch.float32)))).flatten()

    @staticmethod
    def _condition(sigma: Tensor) -> Tensor:
        return sigma.flatten().log() / 4


def in_half(network: Precond) -> Precond:
    """Return a copy with float16 parameters and buffers, as in EDM2's files."""
    copied = copy.deepcopy(network)
    for module in copied.modules():
        for name, parameter in module.named_parameters(recurse=False):
            module.register_parameter(name, nn.Parameter(parameter.detach().half()))
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, buffer.half())
    return copied

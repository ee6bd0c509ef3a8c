"""The score network of LSGM's latent prior (Vahdat et al. 2021), with the published parameter names.

Official state dicts (`dae_state_dict`) load key for key. The noise prediction is mixed with that of a normal
prior, as in LSGM's sampling. The diffusion's variances, the ODE, and the autoencoder are implemented
elsewhere. The prior has no class labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from dgflow.networks.checks import check_choice
from dgflow.networks.ncsnpp.layers import FourierFeatures, sinusoid
from dgflow.networks.ncsnpp.module import Combination, Progressive, ProgressiveInput, ScoreUNet
from dgflow.networks.precision import wide


class LSGMPriorModule(nn.Module):
    """Noise predictor on latents. The defaults are those of the CIFAR-10 model with the best FID (180
    channels of 16x16).

    Args:
        image_size: side of the latent.
        num_input_channels: channels of the latent.
        num_channels: base width of the U-Net.
        ch_mult: width of each level as a multiple of `num_channels`.
        num_res_blocks: residual blocks per level (one more in the decoder).
        attn_resolutions: sides with attention, only 16 in published priors; there is always attention between
            encoder and decoder.
        dropout: probability of dropout, in training only.
        fir, progressive, progressive_input, progressive_combine: as in `NCSNpp`.
        embedding_dim: width of the time features; the time embedding is four times as wide.
        embedding_type: "positional", or "fourier" with fixed random frequencies.
        embedding_scale: factor on the time before the embedding; with "fourier", the standard deviation of
            the frequencies.
        mixed_prediction: the noise is a learned mixture, per channel, of the network's output and that of a
            normal prior (`epsilon`).
        mixing_logit_init: initial logit of the network's share in the mixture: -3; -6 for MNIST.

    Raises:
        ValueError: a choice is unknown, or the levels cannot halve the latent.
    """

    def __init__(
        self,
        *,
        image_size: int = 16,
        num_input_channels: int = 180,
        num_channels: int = 512,
        ch_mult: Sequence[int] = (1, 1, 1),
        num_res_blocks: int = 8,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.2,
        fir: bool = True,
        progressive: Progressive = "none",
        progressive_input: ProgressiveInput = "none",
        progressive_combine: Combination = "sum",
        embedding_dim: int = 128,
        embedding_type: Literal["positional", "fourier"] = "positional",
        embedding_scale: float = 1000.0,
        mixed_prediction: bool = True,
        mixing_logit_init: float = -3.0,
    ) -> None:
        super().__init__()
        check_choice("embedding_type", embedding_type, ("positional", "fourier"))
        self.image_size, self.num_input_channels = image_size, num_input_channels
        self.mixing_logit = (
            nn.Parameter(torch.full((1, num_input_channels, 1, 1), mixing_logit_init))
            if mixed_prediction
            else None
        )
        self.temb_fun = (
            PositionalFeatures(embedding_dim, embedding_scale)
            if embedding_type == "positional"
            else FourierFeatures("w", (1, embedding_dim // 2), embedding_scale, angular=True)
        )
        self.all_modules = ScoreUNet(
            image_size=image_size,
            channels=num_input_channels,
            nf=num_channels,
            ch_mult=ch_mult,
            num_res_blocks=num_res_blocks,
            attn_resolutions=attn_resolutions,
            dropout=dropout,
            fir=fir,
            progressive=progressive,
            progressive_input=progressive_input,
            progressive_combine=progressive_combine,
            time_features=embedding_dim,
            emb_channels=4 * embedding_dim,
        )

    def forward(self, x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """The network's output before mixing: [B, num_input_channels, H, W] in the dtype of the parameters.

        Args:
            x_BCHW: latents of the diffusion; cast to the dtype of the parameters.
            t_B: times in [0, 1], [B], [1] or 0-d.
        """
        return self.all_modules(x_BCHW, self.temb_fun(t_B.reshape(-1)))

    def epsilon(self, x_BCHW: Tensor, t_B: Tensor, variance_B: Tensor) -> Tensor:
        """Predicted noise, like `forward`: (1 - a) sqrt(variance) x + a network, a = sigmoid(mixing_logit);
        LSGM, equation 9.

        sqrt(variance) x is the noise of a standard normal prior under a variance-preserving diffusion,
        including LSGM's geometric one. Without `mixed_prediction` the result is the network's output.

        Args:
            variance_B: variance of the diffusion at `t_B`, [B], [1] or 0-d.
        """
        predicted = self(x_BCHW, t_B)
        if self.mixing_logit is None:
            return predicted
        # Not in a narrower dtype of the parameters: `normal` is exact and dominates the sum.
        share = self.mixing_logit.to(wide(self.mixing_logit.dtype)).sigmoid()
        normal = variance_B.reshape(-1, 1, 1, 1).sqrt() * x_BCHW
        return ((1 - share) * normal + share * predicted).to(x_BCHW.dtype)

    def ema_names(self) -> list[str]:
        """Names of all parameters: `dae_optimizer["state"][i]["ema"]` of a training checkpoint belongs to
        name i.

        A parameter that is not trained (`temb_fun.w`) has no entry there.
        """
        return [name for name, _ in self.named_parameters()]


class PositionalFeatures(nn.Module):
    """Sines and cosines of times [B], [B, dim]."""

    def __init__(self, dim: int, scale: float) -> None:
        super().__init__()
        self.dim, self.scale = dim, scale

    def forward(self, t_B: Tensor) -> Tensor:
        return sinusoid(t_B * self.scale, self.dim)

"""The U-Net of score_sde (NCSN++, DDPM++; Song et al. 2021) and Soft Truncation's networks (Kim et al. 2022),
with the published parameter names. LSGM's prior uses the same U-Net.

Shape letters: B batch, C channels, H W height and width, E embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgflow.networks.checks import check_choice
from dgflow.networks.ncsnpp.layers import (
    FIR_TAPS,
    INIT_SMALL,
    SKIP_RESCALE,
    Attention,
    FourierFeatures,
    GroupNorm,
    ResBlock,
    ResidualInput,
    ResidualOutput,
    SkipInput,
    SkipOutput,
    conv,
    linear,
    sinusoid,
)
from dgflow.networks.precision import wide_linear

Progressive = Literal["none", "output_skip", "residual"]
ProgressiveInput = Literal["none", "input_skip", "residual"]
Combination = Literal["sum", "cat"]


class ScoreUNet(nn.ModuleList):
    """The U-Net as a flat list of modules, from image and time features to image.

    `forward` uses the modules in the order in which the constructor adds them; read the two side by side.

    Args:
        image_size: side of the image in pixels, divisible by 2 for every level but the first.
        channels: channels of input and output.
        time_features: width of the time features.
        emb_channels: width of the time embedding.
        before: modules with the first numbers in the list; they are not called here.

    The other arguments are explained in `NCSNpp`.
    """

    def __init__(
        self,
        *,
        image_size: int,
        channels: int,
        nf: int,
        ch_mult: Sequence[int],
        num_res_blocks: int,
        attn_resolutions: Sequence[int],
        dropout: float,
        fir: bool,
        progressive: Progressive,
        progressive_input: ProgressiveInput,
        progressive_combine: Combination,
        time_features: int,
        emb_channels: int,
        fir_kernel: Sequence[float] = FIR_TAPS,
        skip_rescale: bool = True,
        before: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__(before)
        _check(image_size, ch_mult, progressive, progressive_input, progressive_combine, fir)
        taps = tuple(map(float, fir_kernel)) if fir else ()
        scale = SKIP_RESCALE if skip_rescale else 1.0
        if len(taps) % 2:
            raise ValueError(f"expected a FIR kernel of an even number of taps, found {list(taps)}")
        self.first, self.num_res_blocks = len(before), num_res_blocks
        self.sides, self.attn_resolutions = (
            [image_size >> level for level in range(len(ch_mult))],
            tuple(attn_resolutions),
        )
        self.progressive, self.progressive_input = progressive, progressive_input
        widths = [nf * mult for mult in ch_mult]

        def block(
            in_channels: int, out_channels: int, resample: Literal["up", "down"] | None = None
        ) -> ResBlock:
            options: dict[str, Any] = {"fir": taps, "dropout": dropout, "scale": scale}
            return ResBlock(in_channels, out_channels, emb_channels, resample=resample, **options)

        self.extend(
            [linear(time_features, emb_channels), linear(emb_channels, emb_channels), conv(channels, nf)]
        )
        width, image_width = nf, channels
        skips = [width]
        for side, next_width in zip(self.sides, widths, strict=True):
            if side != image_size:
                self.append(block(width, width, "down"))
                if progressive_input == "residual":
                    self.append(ResidualInput(image_width, width, taps, scale))
                    image_width = width
                elif progressive_input == "input_skip":
                    self.append(SkipInput(image_width, width, taps, progressive_combine))
                    width = 2 * width if progressive_combine == "cat" else width
                skips.append(width)
            for _ in range(num_res_blocks):
                self.append(block(width, next_width))
                width = next_width
                if side in attn_resolutions:
                    self.append(Attention(width, scale))
                skips.append(width)

        self.extend([block(width, width), Attention(width, scale), block(width, width)])

        for side, next_width in zip(reversed(self.sides), reversed(widths), strict=True):
            for _ in range(num_res_blocks + 1):
                self.append(block(width + skips.pop(), next_width))
                width = next_width
            if side in attn_resolutions:
                self.append(Attention(width, scale))
            if progressive == "output_skip":
                self.extend([GroupNorm(width), SkipOutput(width, channels, taps)])
            elif progressive == "residual":
                deepest = side == self.sides[-1]
                first = [GroupNorm(width), conv(width, width)]
                self.extend(first if deepest else [ResidualOutput(image_width, width, scale)])
                image_width = width
            if side != image_size:
                self.append(block(width, width, "up"))
        if progressive != "output_skip":
            self.extend([GroupNorm(width), conv(width, channels, init=INIT_SMALL)])

    def forward(self, x_BCHW: Tensor, time_features: Tensor) -> Tensor:
        """Output [B, channels, H, W] in the dtype of the parameters, from images in any dtype and features
        [B, F] or [1, F] in the same or a wider dtype.
        """
        layers: Any = iter(list(self)[self.first :])  # modules with different signatures
        first, second = next(layers), next(layers)
        emb_BE = F.silu(wide_linear(first, time_features))
        emb_BE = F.silu(wide_linear(second, emb_BE))  # every block would begin with it

        image = x_BCHW.to(first.weight.dtype)
        h = next(layers)(image)
        skips = [h]
        for side in self.sides:
            if side != self.sides[0]:
                h = next(layers)(h, emb_BE)
                if self.progressive_input != "none":
                    image, h = next(layers)(image, h)
                skips.append(h)
            for _ in range(self.num_res_blocks):
                h = next(layers)(h, emb_BE)
                if side in self.attn_resolutions:
                    h = next(layers)(h)
                skips.append(h)

        h = next(layers)(h, emb_BE)
        h = next(layers)(h)
        h = next(layers)(h, emb_BE)

        image = None
        for side in reversed(self.sides):
            for _ in range(self.num_res_blocks + 1):
                h = next(layers)(torch.cat([h, skips.pop()], dim=1), emb_BE)
            if side in self.attn_resolutions:
                h = next(layers)(h)
            if self.progressive == "output_skip":
                norm, head = next(layers), next(layers)
                image = head(F.silu(norm(h)), image)
            elif self.progressive == "residual" and image is None:
                norm, first = next(layers), next(layers)
                image = first(F.silu(norm(h)))
            elif self.progressive == "residual":
                h = image = next(layers)(image, h)
            if side != self.sides[0]:
                h = next(layers)(h, emb_BE)
        if image is not None and self.progressive == "output_skip":
            return image
        norm, head = next(layers), next(layers)
        return head(F.silu(norm(h)))


class NCSNppModule(nn.Module):
    """Soft Truncation's score network. The defaults are DDPM++ on CelebA, which predicts the noise of the
    linear-VP diffusion.

    Published variance-preserving networks take 999 tau, with tau in [0, 1], and predict the noise;
    variance-exploding ones take sigma and predict the score.

    Args:
        image_size: side of the image in pixels.
        num_channels: channels of input and output.
        nf: base width; the time embedding is four times as wide.
        ch_mult: width of each level as a multiple of `nf`.
        num_res_blocks: residual blocks per level (one more in the decoder).
        attn_resolutions: sides in pixels with attention; there is always attention between encoder and
            decoder.
        dropout: probability of dropout, in training only.
        fir: resample by the filter `fir_kernel` instead of nearest neighbours and 2x2 means.
        skip_rescale: multiply the sum of two branches by sqrt(1/2).
        progressive: "output_skip" sums images of all levels; "none" has one image at the end; "residual",
            only without `fir`, adds learned features of each level to those of the next.
        progressive_input: the way in which smaller copies of the input join the encoder: by a 1x1 convolution
            ("input_skip"), or learned ("residual").
        progressive_combine: "input_skip" adds to the main branch ("sum") or is concatenated to it ("cat").
        embedding_type: embedding of the label: "positional" in 0..999, or "fourier" of log(sigma) at fixed
            random frequencies.
        embedding_dim: width of the positional features (networks with `lsgm`); None for `nf`.
        fourier_scale: standard deviation of the random frequencies.
        scale_by_sigma: divide the output by sigma: the label with "fourier", `sigmas[label]` with
            "positional".
        centered: images are in [-1, 1]; otherwise they are in [0, 1] and the network maps them to [-1, 1].
        num_scales, sigma_min, sigma_max: define the stored `sigmas`, float64 [num_scales], geometric from
            sigma_max down to sigma_min.

    Raises:
        ValueError: a choice is unknown, or the levels cannot halve the image.
    """

    sigmas: Tensor

    def __init__(
        self,
        *,
        image_size: int = 64,
        num_channels: int = 3,
        nf: int = 128,
        ch_mult: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.1,
        fir: bool = False,
        fir_kernel: Sequence[float] = FIR_TAPS,
        skip_rescale: bool = True,
        progressive: Progressive = "none",
        progressive_input: ProgressiveInput = "none",
        progressive_combine: Combination = "sum",
        embedding_type: Literal["positional", "fourier"] = "positional",
        embedding_dim: int | None = None,
        fourier_scale: float = 16.0,
        scale_by_sigma: bool = False,
        centered: bool = True,
        num_scales: int = 1000,
        sigma_min: float = 0.01,
        sigma_max: float = 90.0,
    ) -> None:
        super().__init__()
        check_choice("embedding_type", embedding_type, ("positional", "fourier"))
        self.image_size, self.num_channels = image_size, num_channels
        self.scale_by_sigma, self.centered = scale_by_sigma, centered
        features = nf if embedding_dim is None else embedding_dim
        self.register_buffer(
            "sigmas",
            torch.linspace(math.log(sigma_max), math.log(sigma_min), num_scales, dtype=torch.float64).exp(),
        )
        self.positional_features = features if embedding_type == "positional" else None
        self.all_modules = ScoreUNet(
            image_size=image_size,
            channels=num_channels,
            nf=nf,
            ch_mult=ch_mult,
            num_res_blocks=num_res_blocks,
            attn_resolutions=attn_resolutions,
            dropout=dropout,
            fir=fir,
            fir_kernel=fir_kernel,
            skip_rescale=skip_rescale,
            progressive=progressive,
            progressive_input=progressive_input,
            progressive_combine=progressive_combine,
            time_features=features if embedding_type == "positional" else 2 * nf,
            emb_channels=4 * features,
            before=[] if embedding_type == "positional" else [FourierFeatures("W", (nf,), fourier_scale)],
        )

    def forward(self, x_BCHW: Tensor, labels_B: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Noise or score, [B, num_channels, H, W] in the dtype of the parameters.

        Args:
            x_BCHW: noisy images; cast to the dtype of the parameters.
            labels_B: [B], [1] or 0-d; 999 tau, or the noise level sigma > 0 with "fourier".
            class_labels: ignored, since the network has no classes; accepted for a uniform interface.
        """
        labels_B = labels_B.reshape(-1)
        if self.positional_features is not None:
            features, sigma = sinusoid(labels_B, self.positional_features), None
        else:
            features, sigma = self.all_modules[0](labels_B.log()), labels_B
        h = self.all_modules(x_BCHW if self.centered else 2 * x_BCHW - 1, features)
        if not self.scale_by_sigma:
            return h
        sigma = self.sigmas[labels_B.long()] if sigma is None else sigma
        return h / sigma.to(h.dtype)[:, None, None, None]

    def ema_names(self) -> list[str]:
        """Names of the trainable parameters, in the order of a checkpoint's `ema.shadow_params`."""
        # By name, since sampling turns requires_grad off everywhere. The excluded name is the Fourier
        # frequencies.
        return [name for name, _ in self.named_parameters() if name != "all_modules.0.W"]


def _check(
    image_size: int,
    ch_mult: Sequence[int],
    progressive: str,
    progressive_input: str,
    progressive_combine: str,
    fir: bool,
) -> None:
    if image_size % 2 ** (len(ch_mult) - 1):
        raise ValueError(
            f"image_size {image_size} cannot be halved {len(ch_mult) - 1} times, as {len(ch_mult)} levels "
            "need"
        )
    # "residual" outputs with FIR fail in the original implementation, so no such weights exist.
    check_choice("progressive", progressive, ("none", "output_skip") if fir else get_args(Progressive))
    check_choice("progressive_input", progressive_input, ("none", "input_skip", "residual"))
    check_choice("progressive_combine", progressive_combine, ("sum", "cat"))

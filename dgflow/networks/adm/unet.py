"""ADM's U-Net (Dhariwal & Nichol 2021), with the published parameter names: predicts noise and, if the
variance is learned, its interpolation coefficients.

Shape letters: B batch, C channels, H W height and width, E embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from dgflow.diffusion.float16 import WideSequential, widened
from dgflow.networks.adm.layers import Block, GroupNorm, TimeEmbedding, zeroed
from dgflow.networks.adm.levels import Levels
from dgflow.networks.labels import with_labels


class ADMUNetModule(nn.Module):
    """U-Net that maps noisy image, step and label to `out_channels` channels of the same side.

    Args:
        image_size: side of the (square) image in pixels.
        in_channels: channels of the input.
        model_channels: base width; the time embedding is four times as wide.
        out_channels: channels of the output: twice the image's if the variance is learned.
        num_res_blocks: residual blocks per level (one more in the ascending half).
        attention_resolutions: downsampling factors (1, 2, 4, ...) with attention; the middle always has one.
        channel_mult: width of each level as a multiple of `model_channels`; each width must be a multiple of
            32.
        num_classes: rows of the label embedding; None for an unconditional network.
        num_head_channels: channels per attention head; None for `num_heads` heads everywhere.
        num_heads: attention heads, used if `num_head_channels` is None.
        num_heads_upsample: heads in the ascending half; None for `num_heads`.
        use_scale_shift_norm: the time embedding scales and shifts after the second norm; otherwise it is
            added before it.
        resblock_updown: levels change in a resampling residual block; otherwise in a convolution.
        new_attention_order: channel layout of qkv: (q, k, v) outermost instead of the head. Of the published
            networks, only 64x64 uses it.
        dropout: probability of dropout in the residual blocks, in training only.

    Raises:
        ValueError: a width is not a multiple of 32 or of the heads, or the levels cannot halve the size.
    """

    def __init__(
        self,
        *,
        image_size: int,
        in_channels: int = 3,
        model_channels: int,
        out_channels: int,
        num_res_blocks: int,
        attention_resolutions: Sequence[int],
        channel_mult: Sequence[float],
        num_classes: int | None = None,
        num_head_channels: int | None = 64,
        num_heads: int = 4,
        num_heads_upsample: int | None = None,
        use_scale_shift_norm: bool = True,
        resblock_updown: bool = True,
        new_attention_order: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        levels = Levels(
            image_size=image_size,
            model_channels=model_channels,
            num_res_blocks=num_res_blocks,
            attention_resolutions=attention_resolutions,
            channel_mult=channel_mult,
            num_head_channels=num_head_channels,
            num_heads=num_heads,
            use_scale_shift_norm=use_scale_shift_norm,
            resblock_updown=resblock_updown,
            new_attention_order=new_attention_order,
            dropout=dropout,
        )
        self.image_size, self.in_channels, self.out_channels, self.num_classes = (
            image_size,
            in_channels,
            out_channels,
            num_classes,
        )

        self.time_embed = TimeEmbedding(model_channels)
        self.label_emb = nn.Embedding(num_classes, 4 * model_channels) if num_classes is not None else None
        self.input_blocks, skip_widths = levels.input_blocks(in_channels)
        self.middle_block = levels.middle_block()
        self.output_blocks = nn.ModuleList()
        levels = replace(levels, num_heads=num_heads_upsample or num_heads)
        width = levels.widths[-1]
        for level in reversed(range(len(levels.widths))):
            for i in range(num_res_blocks + 1):
                block = Block(levels.res(width + skip_widths.pop(), levels.widths[level]))
                width = levels.widths[level]
                if levels.attends(level):
                    block.append(levels.attention(width))
                if i == num_res_blocks and level > 0:
                    block.append(levels.up(width))
                self.output_blocks.append(block)
        self.out = WideSequential(
            GroupNorm(width), nn.SiLU(), zeroed(nn.Conv2d(width, out_channels, 3, padding=1))
        )

    def forward(self, x_BCHW: Tensor, timesteps_B: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Raw output [B, out_channels, H, W] in x's dtype.

        Args:
            x_BCHW: noisy images of the variance-preserving diffusion; cast to the dtype of the parameters.
            timesteps_B: steps 0..999 of the full diffusion, integer or fractional, [B] or [1].
            class_labels: int64 [B] or one-hot [B, K], for a conditional network only.

        Raises:
            ValueError: labels are missing, unexpected or of another form. Their range is not checked.
        """
        emb_BE = self.time_embed(timesteps_B.reshape(-1)).to(next(self.parameters()).dtype)
        emb_BE = with_labels(emb_BE, self.label_emb, class_labels)
        h, skips = x_BCHW.to(next(self.input_blocks.parameters()).dtype), []
        for block in self.input_blocks:
            h = block(h, emb_BE)
            skips.append(h)
        h = self.middle_block(h, emb_BE)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb_BE)
        return self.out(widened(h, next(self.out.parameters()))).to(x_BCHW.dtype)

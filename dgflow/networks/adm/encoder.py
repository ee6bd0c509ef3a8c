"""The half U-Net of ADM (Dhariwal & Nichol 2021), with the published parameter names: noisy classifier,
feature extractor, and discriminator head as in Discriminator Guidance (Kim et al. 2023).

Shape letters: B batch, C channels, H W height and width, E embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from dgflow.diffusion.float16 import WideSequential, widened
from dgflow.networks.adm.layers import AttentionPool, GroupNorm, TimeEmbedding, zeroed
from dgflow.networks.adm.levels import Levels
from dgflow.networks.labels import with_labels


class ADMEncoderModule(nn.Module):
    """Map image and time to `out_channels` numbers per sample: input blocks, a middle block, a pooling head.

    Args:
        image_size: side of the (square) input in pixels.
        in_channels: channels of the input.
        model_channels: base width; the time embedding is four times as wide.
        out_channels: outputs per sample (classes, or 1 for a log-ratio).
        num_res_blocks: residual blocks per level.
        attention_resolutions: downsampling factors (1, 2, 4, ...) with attention; values that match no level,
            such as 0, are allowed.
        channel_mult: width of each level as a multiple of `model_channels`; each width must be a multiple of
            32.
        num_head_channels: channels of one attention head, in the blocks and in the attention pool.
        num_classes: rows of the label embedding; None for an unconditional network. Published discriminators
            have 1000, regardless of the data.
        pool: "attention" (token 0 of an attention pool, the published choice) or "adaptive" (global average,
            then a 1x1 convolution).
        use_scale_shift_norm: the time embedding scales and shifts after the second norm; otherwise it is
            added before it.
        resblock_updown: levels end in a downsampling residual block; otherwise in a convolution with stride
            2.
        new_attention_order: channel layout of qkv in the blocks: (q, k, v) outermost instead of the head. The
            pool always has (q, k, v) outermost.
        time_scale: factor from `t` to the embedded step: 999 for t in [0, 1], 1 if the caller gives steps
            0..999.

    Raises:
        ValueError: a width is not a multiple of 32 or of `num_head_channels`, the levels cannot halve the
            size, or the pool is unknown.
    """

    def __init__(
        self,
        *,
        image_size: int,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        num_res_blocks: int,
        attention_resolutions: Sequence[int],
        channel_mult: Sequence[float],
        num_head_channels: int = 64,
        num_classes: int | None = None,
        pool: Literal["attention", "adaptive"] = "attention",
        use_scale_shift_norm: bool = True,
        resblock_updown: bool = True,
        new_attention_order: bool = False,
        time_scale: float = 999.0,
    ) -> None:
        super().__init__()
        levels = Levels(
            image_size=image_size,
            model_channels=model_channels,
            num_res_blocks=num_res_blocks,
            attention_resolutions=attention_resolutions,
            channel_mult=channel_mult,
            num_head_channels=num_head_channels,
            num_heads=1,
            use_scale_shift_norm=use_scale_shift_norm,
            resblock_updown=resblock_updown,
            new_attention_order=new_attention_order,
        )
        width = levels.widths[-1]
        self.image_size, self.in_channels, self.out_channels = image_size, in_channels, out_channels
        self.feature_channels, self.feature_size = width, image_size // levels.reduction
        self.num_classes, self.time_scale = num_classes, time_scale

        self.time_embed = TimeEmbedding(model_channels)
        self.label_emb = nn.Embedding(num_classes, 4 * model_channels) if num_classes is not None else None
        self.input_blocks, _ = levels.input_blocks(in_channels)
        self.middle_block = levels.middle_block()
        if pool == "attention":
            self.out = WideSequential(
                GroupNorm(width),
                nn.SiLU(),
                AttentionPool(self.feature_size, width, num_head_channels, out_channels),
            )
        elif pool == "adaptive":
            last = zeroed(nn.Conv2d(width, out_channels, 1))
            self.out = WideSequential(
                GroupNorm(width), nn.SiLU(), nn.AdaptiveAvgPool2d(1), last, nn.Flatten()
            )
        else:
            raise ValueError(f'expected pool "attention" or "adaptive", found {pool!r}')
        self.pool = pool

    def features(self, x_BCHW: Tensor, t_B: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """The middle block's output [B, feature_channels, feature_size, feature_size], the input of a
        discriminator head.

        Args:
            x_BCHW: noisy images; cast to the dtype of the parameters.
            t_B: times [B] or [1], integer or float, multiplied by `time_scale` in the precision of `t_B`.
            class_labels: int64 [B] or one-hot [B, K] (its argmax is used), for a conditional network; others
                ignore them.
        """
        emb_BE = self.time_embed(t_B.reshape(-1) * self.time_scale).to(next(self.parameters()).dtype)
        if self.label_emb is not None:
            emb_BE = with_labels(emb_BE, self.label_emb, class_labels)
        h = x_BCHW.to(next(self.input_blocks.parameters()).dtype)
        for block in self.input_blocks:
            h = block(h, emb_BE)
        return self.middle_block(h, emb_BE)

    def head(self, features_BCHW: Tensor) -> Tensor:
        """Map `features` to [B, out_channels]: normalise, pool, project."""
        return self.out(widened(features_BCHW, next(self.out.parameters())))

    def pooled(self, features_BCHW: Tensor) -> Tensor:
        """The global average [B, feature_channels] that the last 1x1 convolution reads.

        Raises ValueError unless `pool="adaptive"`.
        """
        if self.pool != "adaptive":
            raise ValueError(
                f'expected a network with pool="adaptive", for pooled features, found pool={self.pool!r}'
            )
        return self.out[:3](widened(features_BCHW, next(self.out.parameters()))).flatten(1)

    def forward(self, x_BCHW: Tensor, t_B: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Logits [B, out_channels], `head(features(...))`. Arguments as in `features`."""
        return self.head(self.features(x_BCHW, t_B, class_labels))

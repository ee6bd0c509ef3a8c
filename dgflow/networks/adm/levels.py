"""The descending half of ADM's U-Net and of its encoder: levels of blocks, with the published order and
names. Impossible settings raise an error that states the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from dgflow.networks.adm.layers import AttentionBlock, Block, Downsample, Resample, ResBlock, Upsample
from dgflow.networks.adm.sizes import check_levels, level_widths


@dataclass(frozen=True)
class Levels:
    """The settings and the blocks of one network. Arguments as for `ADMUNet`.

    Raises:
        ValueError: a width is not a multiple of 32 or of the heads, or the levels cannot halve the image.
    """

    image_size: int
    model_channels: int
    num_res_blocks: int
    attention_resolutions: Sequence[int]
    channel_mult: Sequence[float]
    num_head_channels: int | None
    num_heads: int
    use_scale_shift_norm: bool
    resblock_updown: bool
    new_attention_order: bool
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_levels(
            self.image_size, self.widths, self.attention_resolutions, self.num_head_channels, self.num_heads
        )

    @property
    def widths(self) -> list[int]:
        return level_widths(self.model_channels, self.channel_mult)

    @property
    def reduction(self) -> int:
        """Ratio of the image's side to the side of the deepest level."""
        return 2 ** (len(self.channel_mult) - 1)

    def attends(self, level: int) -> bool:
        return 2**level in self.attention_resolutions

    def res(self, width: int, next_width: int, resample: Resample | None = None) -> ResBlock:
        return ResBlock(
            width,
            next_width,
            4 * self.model_channels,
            use_scale_shift_norm=self.use_scale_shift_norm,
            resample=resample,
            dropout=self.dropout,
        )

    def attention(self, width: int) -> AttentionBlock:
        heads = width // self.num_head_channels if self.num_head_channels else self.num_heads
        return AttentionBlock(width, heads, self.new_attention_order)

    def down(self, width: int) -> nn.Module:
        return self.res(width, width, "down") if self.resblock_updown else Downsample(width)

    def up(self, width: int) -> nn.Module:
        return self.res(width, width, "up") if self.resblock_updown else Upsample(width)

    def input_blocks(self, in_channels: int) -> tuple[nn.ModuleList, list[int]]:
        """The encoder's blocks, and the width of each block's output, in order; the first block is a
        convolution.
        """
        width = self.widths[0]
        blocks, out_widths = nn.ModuleList([Block(nn.Conv2d(in_channels, width, 3, padding=1))]), [width]
        for level, next_width in enumerate(self.widths):
            for _ in range(self.num_res_blocks):
                block = Block(self.res(width, next_width))
                width = next_width
                if self.attends(level):
                    block.append(self.attention(width))
                blocks.append(block)
                out_widths.append(width)
            if level < len(self.widths) - 1:
                blocks.append(Block(self.down(width)))
                out_widths.append(width)
        return blocks, out_widths

    def middle_block(self) -> Block:
        width = self.widths[-1]
        return Block(self.res(width, width), self.attention(width), self.res(width, width))

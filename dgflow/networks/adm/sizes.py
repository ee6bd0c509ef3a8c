"""Check the sizes of ADM's networks by arithmetic on their settings. Does not load torch."""

from __future__ import annotations

from collections.abc import Sequence

from dgflow.networks.checks import check_halvings, check_widths

NUM_GROUPS = 32


def level_widths(model_channels: int, channel_mult: Sequence[float]) -> list[int]:
    """Channels of each level, from the full image side down."""
    return [int(mult * model_channels) for mult in channel_mult]


def check_levels(
    image_size: int,
    widths: Sequence[int],
    attention_resolutions: Sequence[int],
    num_head_channels: int | None,
    num_heads: int,
) -> None:
    """Raise ValueError if a width is not a multiple of 32 or of the heads, or if the levels cannot halve the
    image.

    Args:
        num_heads: number of heads, used if num_head_channels is None.
    """
    check_widths(widths, NUM_GROUPS)
    for level, width in enumerate(widths):
        attends = 2**level in attention_resolutions or level == len(widths) - 1
        if attends and width % (num_head_channels or num_heads):
            heads = f"heads of {num_head_channels}" if num_head_channels else f"{num_heads} heads"
            setting = "num_head_channels" if num_head_channels else "num_heads"
            raise ValueError(f"a width of {width} channels cannot be split into {heads}: change {setting}")
    check_halvings(image_size, len(widths))

"""Checks of settings, shared by several families."""

from __future__ import annotations

from collections.abc import Sequence


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError for a setting that is not one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, found {value!r}")


def check_unconditional(name: str, num_classes: int) -> None:
    """Raise ValueError if classes are given for a network without classes."""
    if num_classes:
        raise ValueError(f"{name} has no classes: expected num_classes=0, found {num_classes}")


def halved(image_size: int, times: int) -> int:
    """The side after `times` halvings. Raises ValueError if the side cannot be halved that often."""
    if image_size % (1 << times):
        raise ValueError(
            f"expected images whose side can be halved {times} times, found {image_size}: resize or crop them"
        )
    return image_size >> times


def check_halvings(image_size: int, levels: int) -> None:
    """Raise ValueError if `levels` levels cannot halve the image."""
    if image_size % 2 ** (levels - 1):
        raise ValueError(
            f"image_size {image_size} cannot be halved {levels - 1} times, as {levels} levels need: "
            "give fewer levels, or images of another side"
        )


def check_widths(widths: Sequence[int], groups: int) -> None:
    """Raise ValueError if a width is not a multiple of `groups`, the groups of a group norm."""
    if any(width <= 0 or width % groups for width in widths):
        raise ValueError(
            f"every level's width must be a multiple of {groups} (group norm), found {list(widths)}: change "
            "the channels or their multipliers"
        )


def check_unet_widths(first: int, widths: Sequence[int], num_blocks: int) -> None:
    """Raise ValueError for widths that the group norms of EDM's and score_sde's U-Nets cannot split. The
    norms have min(32, C // 4) groups and act on the width of a level or, in the decoder, on this width plus
    that of a skip.

    Args:
        first: width of the first convolution.
    """
    before, after = [first, *widths[:-1]], [*widths[1:], widths[-1]]
    sums = {a + b for a, b in (*zip(widths, before, strict=True), *zip(widths, after, strict=True))}
    if num_blocks > 1:
        sums |= {2 * width for width in widths}
    for width in (first, *widths, *sorted(sums)):
        groups = max(1, min(32, width // 4))
        if width < 1 or width % groups:
            part = "a level with its skip" if width in sums and width not in widths else "a level"
            raise ValueError(
                f"{width} channels, of {part}, cannot be split into {groups} groups (group norm); "
                f"the levels have {list(widths)}: change the channels or their multipliers, preferably to "
                "multiples of 32, or of 4 below 64"
            )


def check_heads(width: int, heads: int, setting: str) -> None:
    """Raise ValueError if a width is not a multiple of the number of attention heads; `setting` names the
    field.
    """
    if heads < 1 or width % heads:
        raise ValueError(f"a width of {width} channels cannot be split into {heads} heads: change {setting}")

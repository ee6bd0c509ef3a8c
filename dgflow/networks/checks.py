"""Checks that several families make of their settings."""

from __future__ import annotations


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError for a setting that is none of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, found {value!r}")


def check_unconditional(name: str, num_classes: int) -> None:
    """Raises ValueError for classes of a network that has none."""
    if num_classes:
        raise ValueError(f"{name} has no classes: expected num_classes=0, found {num_classes}")


def halved(image_size: int, times: int) -> int:
    """The side after that many halvings. Raises ValueError for one that cannot be halved so often."""
    if image_size % (1 << times):
        raise ValueError(
            f"expected images whose side can be halved {times} times, found {image_size}: resize or crop them"
        )
    return image_size >> times

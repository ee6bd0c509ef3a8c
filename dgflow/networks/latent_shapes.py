"""The shapes of latents."""

from __future__ import annotations


def halved(image_size: int, times: int) -> int:
    if image_size % (1 << times):
        raise ValueError(
            f"expected images whose side can be halved {times} times, found {image_size}: resize or crop them"
        )
    return image_size >> times

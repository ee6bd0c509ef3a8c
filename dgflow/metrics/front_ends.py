"""From images to the Inception network's input, in the three ways that published numbers were made with.

Promises `adm` equal to TensorFlow 1's resize (OpenAI's evaluator on ImageNet), `edm` to the affine grid of
NVIDIA's network file (CIFAR-10, FFHQ), `clean` to clean-fid's own resizer, which does it. They are never to
be mixed: another resize moves features by a tenth of their maximum. Leaves to others: decoding images, and
how many are prepared at once, which bounds the memory (1.1 MB an image).

Shape suffixes: N images, H and W rows and columns, C channels, S = 299.
"""

from collections.abc import Sequence
from typing import get_args

import numpy as np
import torch
from cleanfid.resize import make_resizer
from torch import Tensor
from torch.nn import functional as F

from dgflow.metrics.protocols import SIDE, FrontEndName


def prepare(
    images: Sequence[np.ndarray] | np.ndarray, front_end: FrontEndName, device: torch.device | str = "cpu"
) -> Tensor:
    """The network's input, float32 [N, 3, 299, 299] on `device`, (x - 128) / 128, channels last in memory.

    Args:
        images: uint8 [H, W, 3], or [H, W, 1], which is repeated to three channels; in a list they may differ
            in size. Those of 299 x 299 pass through `adm` and `clean` unchanged; the rounding of `edm`'s grid
            moves them by about 0.01 grey level, as it does there.

    Raises ValueError that names the first image of another dtype or shape, if there is none, or for another
    front end.
    """
    if front_end not in get_args(FrontEndName):
        raise ValueError(
            f"expected one of the front ends {', '.join(get_args(FrontEndName))}, found {front_end!r}"
        )
    if len(images) == 0:
        raise ValueError("expected at least 1 image, found 0; check that the slice is not empty")
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        by_shape.setdefault(_checked(image, index).shape, []).append(index)
    place = torch.device(device)
    prepared_NSSC = torch.empty((len(images), SIDE, SIDE, 3), device=place)
    # One image stays in a CPU's cache: at 256 x 256 `adm` is three times as fast as with 32 at once. A GPU
    # takes all of a size at once.
    together = 1 if place.type == "cpu" else len(images)
    for indices in by_shape.values():
        for first in range(0, len(indices), together):
            alike = indices[first : first + together]
            resized = _resized(np.stack([images[index] for index in alike]), front_end, place)
            prepared_NSSC[torch.tensor(alike, device=place)] = resized.expand(-1, -1, -1, 3)
    return prepared_NSSC.sub_(128).div_(128).permute(0, 3, 1, 2)


def _checked(image: np.ndarray, index: int) -> np.ndarray:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        found = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(
            f"image {index}: expected a uint8 array with values 0 to 255, found {found}; convert it where "
            "it is read"
        )
    if image.ndim != 3 or image.shape[2] not in (1, 3) or image.size == 0:
        raise ValueError(
            f"image {index}: expected [height, width, 3] or [height, width, 1], found {list(image.shape)}; "
            "drop an alpha channel, and give several images as a list or [N, height, width, 3]"
        )
    return image


def _resized(images_NHWC: np.ndarray, front_end: FrontEndName, device: torch.device) -> Tensor:
    """[N, 299, 299, 1 or 3], float32, in [0, 255]."""
    if front_end == "clean":
        return _clean(images_NHWC).to(device)
    images = torch.from_numpy(images_NHWC).to(device).float()
    return _tensorflow(images) if front_end == "adm" else _affine_grid(images)


def _tensorflow(images_NHWC: Tensor) -> Tensor:
    """TensorFlow 1's resize_bilinear without half-pixel centres to [N, 299, 299, C]: its operations, in
    float32 and in its order.

    Output pixel i lies at i * H / 299 between its two neighbours; rows are interpolated along their columns
    first.
    """
    _, height, width, _ = images_NHWC.shape
    lower, upper, weight_S = _two_taps(width, images_NHWC.device)
    images_NHSC = _between(
        images_NHWC.index_select(2, lower), images_NHWC.index_select(2, upper), weight_S[:, None]
    )
    lower, upper, weight_S = _two_taps(height, images_NHWC.device)
    return _between(
        images_NHSC.index_select(1, lower), images_NHSC.index_select(1, upper), weight_S[:, None, None]
    )


def _two_taps(size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(lower index, upper index, the upper one's weight), [299] each, of one axis of `size` pixels."""
    place = torch.arange(SIDE, device=device, dtype=torch.float32) * torch.tensor(
        size / SIDE, dtype=torch.float32
    )
    lower = place.long()
    return lower, (lower + 1).clamp(max=size - 1), place - lower


def _between(lower: Tensor, upper: Tensor, weight: Tensor) -> Tensor:
    return upper.sub_(lower).mul_(weight).add_(lower)


def _affine_grid(images_NHWC: Tensor) -> Tensor:
    """The same points as `_tensorflow` through a sampling grid (NVIDIA's form) to [N, 299, 299, C]; differs
    by up to 0.01 grey level."""
    n, height, width, channels = images_NHWC.shape
    theta = torch.eye(2, 3, device=images_NHWC.device)
    theta[0, 2] += (
        1 / width - 1 / SIDE
    )  # so that the first output pixel is the first input pixel and not half a pixel off
    theta[1, 2] += 1 / height - 1 / SIDE
    grid = F.affine_grid(theta.expand(n, 2, 3), [n, channels, SIDE, SIDE], align_corners=False)
    images_NCHW = images_NHWC.permute(0, 3, 1, 2).contiguous()  # channels last, it takes 1.3 times as long
    return F.grid_sample(
        images_NCHW, grid, mode="bilinear", padding_mode="border", align_corners=False
    ).permute(0, 2, 3, 1)


def _clean(images_NHWC: np.ndarray) -> Tensor:
    """clean-fid's resizer (Pillow, bicubic, float32, a channel at a time) to [N, 299, 299, 3], in [0, 255]."""
    resize = make_resizer("PIL", False, "bicubic", (SIDE, SIDE))
    return torch.from_numpy(
        np.stack([resize(np.broadcast_to(image, (*image.shape[:2], 3))) for image in images_NHWC])
    )

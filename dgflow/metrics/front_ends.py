"""Resize images to the Inception network's input, in the three ways that published numbers use.

`adm` is TensorFlow 1's resize (OpenAI's evaluator), `edm` is the affine grid of NVIDIA's network file, and
`clean` is clean-fid's resizer. Do not mix them: another resize changes features by a tenth of their maximum.
"""

from collections.abc import Sequence
from typing import get_args

import numpy as np
import torch
from cleanfid.resize import make_resizer
from torch import Tensor
from torch.nn import functional as F

from dgflow.metrics.protocols import SIDE, FrontEndName

# Shape suffixes: N images, H and W rows and columns, C channels, S = 299.


def prepare(
    images: Sequence[np.ndarray] | np.ndarray, front_end: FrontEndName, device: torch.device | str = "cpu"
) -> Tensor:
    """The network's input, (x - 128) / 128 as float32 [N, 3, 299, 299] on `device`, channels last in memory.

    The input takes 1.1 MB per image. `adm` and `clean` leave images of 299 x 299 unchanged; `edm` changes
    them by about 0.01 grey level.

    Args:
        images: uint8 [H, W, 3], or [H, W, 1], which is repeated to three channels. Images in a list may have
            different sizes.

    Raises:
        ValueError: there is no image, an image has another dtype or shape (the first is named), or the front
            end is unknown.
    """
    if front_end not in get_args(FrontEndName):
        names = ", ".join(get_args(FrontEndName))
        raise ValueError(f"expected one of the front ends {names}, found {front_end!r}")
    if len(images) == 0:
        raise ValueError("expected at least 1 image, found 0; check that the slice is not empty")
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        by_shape.setdefault(_checked(image, index).shape, []).append(index)
    device = torch.device(device)
    prepared_NSSC = torch.empty((len(images), SIDE, SIDE, 3), device=device)
    # One image fits into a CPU's cache: at 256 x 256, `adm` is three times as fast as with 32 images at once.
    # A GPU takes all images of a size at once.
    batch_size = 1 if device.type == "cpu" else len(images)
    for indices in by_shape.values():
        for first in range(0, len(indices), batch_size):
            batch = indices[first : first + batch_size]
            resized = _resized(np.stack([images[index] for index in batch]), front_end, device)
            prepared_NSSC[torch.tensor(batch, device=device)] = resized.expand(-1, -1, -1, 3)
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
    """The images as float32 [N, 299, 299, 1 or 3], in [0, 255]."""
    if front_end == "clean":
        return _clean(images_NHWC).to(device)
    images = torch.from_numpy(images_NHWC).to(device).float()
    return _tensorflow(images) if front_end == "adm" else _affine_grid(images)


def _tensorflow(images_NHWC: Tensor) -> Tensor:
    """TensorFlow 1's resize_bilinear without half-pixel centres: its operations, in float32 and in its order.

    Output pixel i lies at i * H / 299, between its two neighbours; the width is interpolated first.
    """
    images_NHSC = _interpolated(images_NHWC, dim=2)
    return _interpolated(images_NHSC, dim=1)


def _interpolated(images_NHWC: Tensor, dim: int) -> Tensor:
    size = images_NHWC.shape[dim]
    step = torch.tensor(size / SIDE, dtype=torch.float32)
    position_S = torch.arange(SIDE, device=images_NHWC.device, dtype=torch.float32) * step
    lower_S = position_S.long()
    lower = images_NHWC.index_select(dim, lower_S)
    upper = images_NHWC.index_select(dim, (lower_S + 1).clamp(max=size - 1))
    weight_S = (position_S - lower_S).view(-1, *[1] * (3 - dim))
    return upper.sub_(lower).mul_(weight_S).add_(lower)


def _affine_grid(images_NHWC: Tensor) -> Tensor:
    """The resize of `_tensorflow` by a sampling grid, as in NVIDIA's network file. It differs by up to 0.01
    grey level."""
    n, height, width, channels = images_NHWC.shape
    theta = torch.eye(2, 3, device=images_NHWC.device)
    theta[0, 2] += 1 / width - 1 / SIDE  # so that the first output pixel is the first input pixel
    theta[1, 2] += 1 / height - 1 / SIDE
    grid = F.affine_grid(theta.expand(n, 2, 3), [n, channels, SIDE, SIDE], align_corners=False)
    images_NCHW = images_NHWC.permute(0, 3, 1, 2).contiguous()  # channels last takes 1.3 times as long
    points = F.grid_sample(images_NCHW, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return points.permute(0, 2, 3, 1)


def _clean(images_NHWC: np.ndarray) -> Tensor:
    """clean-fid's resizer: Pillow, bicubic, float32, channel by channel."""
    resize = make_resizer("PIL", False, "bicubic", (SIDE, SIDE))
    rgb = (np.broadcast_to(image, (*image.shape[:2], 3)) for image in images_NHWC)
    return torch.from_numpy(np.stack([resize(image) for image in rgb]))

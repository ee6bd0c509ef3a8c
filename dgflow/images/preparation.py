"""Prepares images for networks: resizing and cropping as for the published reference statistics of the data
sets. Input and output are uint8 [H, W, C], where C is 1 or 3."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

Preparation = Literal["none", "adm-center-crop", "score-sde-celeba", "lanczos"]

_CELEBA_CROP = 140  # side in pixels of the crop of an image of 178 x 218


def prepare(
    pixels: np.ndarray,
    preparation: Preparation,
    size: int,
    channels: int,
    *,
    average_pool: int = 1,
    pad: int = 0,
) -> np.ndarray:
    """Prepares one image as uint8 [size, size, channels].

    Args:
        pixels: uint8 [H, W] or [H, W, 1 or 3]. One channel is repeated if three are wanted; three equal
            channels become one if one is wanted.
        average_pool: with preparation "none", the integer factor by which the image is shrunk.
        pad: with preparation "none", the number of black pixels that are then added on every side.

    Raises:
        ValueError: the dtype or shape is wrong, the image has colour although one channel is wanted, or the
            preparation does not accept its size.
    """
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise ValueError(
            f"expected uint8 pixels [H, W, 1 or 3], found {pixels.dtype} of shape {pixels.shape}"
        )
    pixels = with_channels(pixels, 1) if channels == 1 else pixels
    if preparation == "none":
        pixels = _pooled(pixels, size, average_pool, pad)
    else:
        resizes = {
            "adm-center-crop": adm_center_crop,
            "score-sde-celeba": score_sde_celeba,
            "lanczos": lanczos,
        }
        pixels = resizes[preparation](pixels, size)
    return with_channels(pixels, channels)


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Returns an image as [H, W, channels]: one channel repeated to three, or the first of three equal
    channels.

    Raises ValueError for an image in colour if one channel is wanted.
    """
    if channels > 1:
        return np.repeat(pixels, channels, axis=2) if pixels.shape[2] < channels else pixels
    if (pixels != pixels[:, :, :1]).any():
        raise ValueError(
            "expected a grey picture, found one in colour; import with channels=3, or convert the pictures "
            "(three channels that are equal are read as one)"
        )
    return pixels[:, :, :1]


def adm_center_crop(pixels: np.ndarray, size: int) -> np.ndarray:
    """Prepares an image of ImageNet as in the training of ADM and DiT.

    1. Halve the image with a box filter while the shorter side is at least 2 `size`.
    2. Resize the shorter side to `size` with PIL's bicubic filter. A smaller image is enlarged.
    3. Crop the centre, with offsets rounded down.
    """
    image = _to_pil(pixels)
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    return _center(_from_pil(image), size)


def score_sde_celeba(pixels: np.ndarray, size: int) -> np.ndarray:
    """Prepares an aligned image of CelebA as in the training of score_sde's models.

    1. Crop the centre to 140 x 140, with offsets rounded down.
    2. Resize with an antialiased linear filter in floating point.
    3. Round to the nearest integer, halves up.
    """
    if min(pixels.shape[:2]) < _CELEBA_CROP:
        raise ValueError(
            f"expected a picture of at least {_CELEBA_CROP} x {_CELEBA_CROP} for score-sde-celeba, found "
            f"{_sides(pixels)}; use the aligned and cropped pictures of CelebA (178 x 218)"
        )
    crop = _center(pixels, _CELEBA_CROP).astype(np.float32)
    # PIL filters floating-point pictures ("F") one channel at a time.
    planes = [
        Image.fromarray(crop[:, :, channel]).resize((size, size), Image.Resampling.BILINEAR)
        for channel in range(crop.shape[2])
    ]
    return np.clip(np.floor(np.stack([np.asarray(plane) for plane in planes], axis=2) + 0.5), 0, 255).astype(
        np.uint8
    )


def lanczos(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resizes a square image with PIL's Lanczos filter, as FFHQ's 64 x 64 images are made from 1024 x
    1024."""
    if pixels.shape[0] != pixels.shape[1]:
        raise ValueError(
            f"expected a square picture for lanczos, found {_sides(pixels)}; crop the pictures first, or "
            "use adm-center-crop"
        )
    return _from_pil(_to_pil(pixels).resize((size, size), Image.Resampling.LANCZOS))


def _pooled(pixels: np.ndarray, size: int, pool: int, pad: int) -> np.ndarray:
    height, width, channels = pixels.shape
    if height % pool or width % pool or (height // pool + 2 * pad, width // pool + 2 * pad) != (size, size):
        made = (
            f" that average_pool={pool} and pad={pad} make {size} x {size}" if (pool, pad) != (1, 0) else ""
        )
        remedy = (
            "correct image_size, average_pool or pad"
            if made
            else "correct image_size, or choose a preparation that resizes"
        )
        expected = f"a picture{made}" if made else f"{size} x {size}"
        raise ValueError(f"expected {expected}, found {_sides(pixels)}; {remedy}")
    if pool > 1:
        blocks = pixels.reshape(height // pool, pool, width // pool, pool, channels)
        pixels = np.floor(blocks.mean(axis=(1, 3), dtype=np.float64) + 0.5).astype(np.uint8)
    return np.pad(pixels, ((pad, pad), (pad, pad), (0, 0))) if pad else pixels


def _center(pixels: np.ndarray, size: int) -> np.ndarray:
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


def _to_pil(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def _from_pil(image: Image.Image) -> np.ndarray:
    pixels = np.array(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _sides(pixels: np.ndarray) -> str:
    return f"{pixels.shape[0]} x {pixels.shape[1]} (height x width)"

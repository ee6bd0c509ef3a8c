"""Reads all of a source of images, and makes pictures to read."""

from pathlib import Path

import numpy as np
from PIL import Image

from dgflow.images.sources import open_images


def read_all(source, block: int = 7) -> np.ndarray:
    images = open_images(str(source))
    return np.stack(
        [each for start in range(0, images.rows, block) for each in images.read(start, start + block)]
    )


def write_pictures(folder: Path, names: list[str], pixels: np.ndarray) -> Path:
    for name, image in zip(names, pixels, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    return folder

"""The Inception network's random weights by recipe: every tensor from its name, its shape and a seed.

The goldens' README states the recipe. Another folder's seed is in its `inception_weights_checksums.json`.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from numpy.random import PCG64, Generator, SeedSequence
from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]


def weights(seed: int, shapes: Shapes) -> dict[str, Tensor]:
    """A float32 tensor for each name of `shapes`, each from its own stream, so that their order does not
    matter."""
    return {name: _tensor(seed, name, shape) for name, shape in shapes.items()}


def _tensor(seed: int, name: str, shape: tuple[int, ...]) -> Tensor:
    stream = Generator(PCG64(SeedSequence([seed, crc32(name.encode())])))
    match name.rsplit(".", 2)[-2:]:
        case ["conv", "weight"]:
            drawn = stream.normal(size=shape) * math.sqrt(2 / math.prod(shape[1:]))
        case ["bn", "weight"]:
            drawn = stream.uniform(0.8, 1.2, shape)
        case ["bn", "running_var"]:
            drawn = stream.uniform(0.5, 1.5, shape)
        case ["bn", "bias" | "running_mean"]:
            drawn = 0.1 * stream.normal(size=shape)
        case ["fc", "weight"]:
            drawn = 3 * stream.normal(size=shape) / math.sqrt(2048)
        case ["fc", "bias"]:
            drawn = 0.5 * stream.normal(size=shape)
        case _:
            raise ValueError(f"the recipe has no rule for a tensor named {name!r}")
    return torch.from_numpy(np.asarray(drawn, dtype=np.float32))


def seed_of(folder: Path) -> int:
    """The seed that a golden folder was made with."""
    return json.loads((folder / "inception_weights_checksums.json").read_text())["seed"]

"""The random numbers of a training, by index: functions of the seed alone."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from dgflow.diffusion import noise
from dgflow.specs.bound import Bound
from dgflow.specs.train_step import TrainStep
from dgflow.steps.training.rows import normals


class Draws(NamedTuple):
    """Noise levels and noise for training uses, held-out items, Gain, losses by level, or paths of noise."""

    seed: int
    level: int
    noise: int
    step: int = 0

    @classmethod
    def training(cls, seed: int) -> Self:
        return cls(seed, noise.LEVEL, noise.NOISE)

    @classmethod
    def held_out(cls, seed: int) -> Self:
        return cls(seed, noise.EVALUATION_LEVEL, noise.EVALUATION_NOISE)

    @classmethod
    def gain(cls, seed: int) -> Self:
        return cls(seed, noise.EVALUATION_LEVEL, noise.EVALUATION_NOISE, step=1)

    @classmethod
    def losses(cls, seed: int) -> Self:
        return cls(seed, noise.EVALUATION_LEVEL, noise.EVALUATION_NOISE, step=2)

    @classmethod
    def path(cls, seed: int) -> Self:
        return cls(seed, noise.EVALUATION_LEVEL, noise.EVALUATION_NOISE, step=3)

    def uniform(self, index_B: Tensor) -> Tensor:
        """Returns float64 [b] in [0, 1), on the CPU."""
        return noise.uniform(self.seed, index_B, (), step=self.step, draw=self.level)

    def normal(self, index_B: Tensor) -> Tensor:
        """Returns float32 [b], on the CPU."""
        return noise.standard_normal(self.seed, index_B, (), step=self.step, draw=self.level).float()

    def normals(self, index_B: Tensor, like: Tensor) -> Tensor:
        """Returns float32, of the shape and on the device of the images `like`."""
        return normals(
            self.seed, index_B, like.shape[1:], draw=self.noise, step=self.step, device=like.device
        )


def fresh_network(step: TrainStep, inputs: Bound, device: torch.device) -> nn.Module:
    """Returns the network of a training before its first step, drawn from the step's seed."""
    torch.manual_seed(step.seed)
    return step.build(inputs).to(device)

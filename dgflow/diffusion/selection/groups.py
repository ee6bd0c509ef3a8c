"""Several particles per sample, with independent noise and the sample's class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from dgflow.diffusion import noise
from dgflow.diffusion.selection.run import Draw, Run, Selected

MAX_PARTICLES = 2**10
MAX_DRAWS = 2**14
"""Maximum draws per particle: (particle, draw number) is one step of `noise`."""

BATCHES = 8
"""Number of full batches of particles sampled together. With eight, the batches are filled to more than 7 / 8
for any number of particles.
"""


@dataclass(frozen=True)
class Group:
    """The particles of the samples [start, stop): row r is particle r % count of sample start + r // count.

    The first particle of a sample has the same draws as the sample without a selection.
    """

    run: Run
    start: int
    stop: int
    count: int

    @property
    def samples(self) -> Tensor:
        """The indices of the samples, int64 [samples]."""
        return torch.arange(self.start, self.stop, device=self.run.device)

    def batches(self) -> list[range]:
        """Split the rows into as few batches as fit into memory, of nearly equal size."""
        rows = (self.stop - self.start) * self.count
        return [range(*ends) for ends in pairwise(_edges(0, rows, self.run.batch_size))]

    def draw(self, rows: range) -> Draw:
        """The draws of the given rows."""
        row = torch.arange(rows.start, rows.stop, device=self.run.device)
        index, particle = self.start + row // self.count, row % self.count
        firsts = [place for place, number in enumerate(rows) if number % self.count == 0]
        others = [place for place, number in enumerate(rows) if number % self.count != 0]
        first, other = (
            torch.tensor(places, dtype=torch.int64, device=row.device) for places in (firsts, others)
        )
        own, plain, run = self.run.draw(index), self.run.draw(index[first]), self.run

        def together(of_first: Tensor, step: Tensor, draw: int) -> Tensor:
            values = torch.empty(len(rows), *run.sides, dtype=torch.float64, device=row.device)
            values[first] = of_first.double()
            values[other] = run.normals(index[other], step=step, draw=draw)
            return values

        def added(number: int) -> Tensor:
            if number >= MAX_DRAWS:
                raise ValueError(
                    f"expected a sampler that draws noise fewer than {MAX_DRAWS:,} times per sample, found "
                    "more: use fewer steps"
                )
            return together(plain.noise(number), particle[other] * MAX_DRAWS + number, noise.PARTICLE_NOISE)

        latents = together(plain.latents, particle[other], noise.PARTICLE_LATENT)
        return own._replace(latents=latents, noise=added)

    def compared(self, log_ratio: Tensor) -> np.ndarray:
        """Reshape log-ratios [rows] to float64 [samples, count], on the host.

        Raises FloatingPointError for NaN.
        """
        values = log_ratio.double().cpu().numpy().reshape(-1, self.count)
        bad = np.isnan(values).any(axis=1)
        if bad.any():
            raise FloatingPointError(
                "expected a log-ratio of every particle, found NaN for sample "
                f"{self.start + int(bad.argmax())}, from the score network or the selection's discriminator: "
                "check their training curves, or use an earlier epoch"
            )
        return values


def in_groups(run: Run, start: int, stop: int, count: int, choose: Callable[[Group], Selected]) -> Selected:
    """Make the samples [start, stop) part by part; `choose` selects from the particles of each part."""
    at_once = max(1, BATCHES * run.batch_size // count)
    groups = [Group(run, *ends, count) for ends in pairwise(_edges(start, stop, at_once))]
    parts = [choose(group) for group in groups]
    rows, batches = (stop - start) * count, sum(len(group.batches()) for group in groups)
    x, labels, log_ratio, *counts, _ = zip(*parts, strict=True)
    score, guides, discriminator = (np.concatenate(values) for values in counts)
    return Selected(
        torch.cat(x),
        torch.cat(labels),
        torch.cat(log_ratio),
        score_evaluations=score,
        guide_evaluations=guides,
        discriminator_evaluations=discriminator,
        utilisation=rows / (batches * min(run.batch_size, rows)),
    )


def _edges(start: int, stop: int, size: int) -> list[int]:
    """The boundaries of nearly equal parts of at most `size`."""
    count = -(-(stop - start) // size)
    return [start + (stop - start) * number // count for number in range(count + 1)]

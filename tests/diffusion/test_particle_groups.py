"""Particles of samples in batches: utilisation of the batches, and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dgflow.diffusion import noise
from dgflow.diffusion.selection.groups import MAX_DRAWS, Group, in_groups
from dgflow.diffusion.selection.run import Draw, Run, Selected

SIDES = (1, 1, 2)


def draw(index_B: torch.Tensor) -> Draw:
    latents = noise.standard_normal(3, index_B, SIDES, step=0, draw=noise.LATENT)
    return Draw(latents, index_B % 5, None, lambda step: latents + step)


def run(batch_size: int) -> Run:
    unused: Any = None
    return Run(draw, unused, None, unused, 0, 3, SIDES, batch_size, torch.device("cpu"))


def selected(group: Group) -> Selected:
    count = len(group.samples)
    none = np.zeros(count, np.int64)
    zero = torch.zeros(count)
    return Selected(zero, group.samples, zero, none, none[:, None], none, 1.0)


@pytest.mark.parametrize("count", [2, 3, 7, 64, 100, 255, 300])
def test_batches_are_full_to_more_than_four_fifths_of_the_rows_that_a_shard_has(count):
    """The shards are complete, of 500 samples, whose own two batches of 256 are full to 0.98."""
    found = in_groups(run(256), 1000, 1500, count, selected)
    assert 0.8 < found.utilisation <= 1.0
    assert found.labels.tolist() == list(range(1000, 1500))


def test_draws_of_a_particle_are_its_own_whatever_the_batch():
    whole = Group(run(100), 7, 9, 4)
    (rows,) = whole.batches()
    one = whole.draw(rows)
    parts = [whole.draw(part) for part in (range(0, 3), range(3, 4), range(4, 8))]
    assert torch.equal(one.latents, torch.cat([part.latents for part in parts]))
    assert torch.equal(one.noise(5), torch.cat([part.noise(5) for part in parts]))
    assert torch.equal(one.noise(5)[[0, 4]], draw(torch.tensor([7, 8])).noise(5))
    values = torch.cat([one.latents, one.noise(1), one.noise(2)])
    assert len(values.flatten(1).unique(dim=0)) == 24
    assert one.labels.tolist() == [2] * 4 + [3] * 4


def test_more_draws_than_there_are_steps_for_are_refused():
    with pytest.raises(ValueError, match="expected a sampler that draws noise fewer than 16,384 times"):
        Group(run(8), 0, 1, 2).draw(range(2)).noise(MAX_DRAWS)


def test_a_log_ratio_of_nan_names_its_sample():
    ratios = torch.tensor([0.0, 1.0, 2.0, float("nan")])
    with pytest.raises(FloatingPointError, match="found NaN for sample 8, from the score network or"):
        Group(run(8), 7, 9, 2).compared(ratios)

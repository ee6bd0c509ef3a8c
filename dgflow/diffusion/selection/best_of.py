"""Best of n: keep the one of several samples with the largest log-ratio."""

from __future__ import annotations

import numpy as np
import torch

from dgflow.diffusion.selection.groups import Group, in_groups
from dgflow.diffusion.selection.run import Run, Selected


def best_of(run: Run, start: int, stop: int, count: int) -> Selected:
    """Select the best of `count` candidates for each of the samples [start, stop), by log-ratio at noise
    level 0; of equals, the first.
    """
    return in_groups(run, start, stop, count, _best)


def _best(group: Group) -> Selected:
    run, batches = group.run, group.batches()
    x, log_ratio, evaluations = [], [], []
    for rows in batches:
        draw = group.draw(rows)
        sample = run.sample(draw)
        x.append(sample.x)
        log_ratio.append(run.log_ratio(sample.x, sample.x.new_zeros(len(rows)), draw.asked))
        evaluations.append(sample.counts(run.entries).cpu().numpy())
    ratios = group.compared(torch.cat(log_ratio))
    first = group.count * np.arange(len(ratios))
    best = torch.from_numpy(first + ratios.argmax(axis=1)).to(run.device)
    taken = np.concatenate(evaluations).reshape(len(ratios), group.count, -1).sum(axis=1)
    return Selected(
        x=torch.cat(x)[best],
        labels=run.draw(group.samples).labels,
        log_ratio=torch.cat(log_ratio)[best],
        score_evaluations=taken[:, 0],
        guide_evaluations=taken[:, 1:],
        discriminator_evaluations=np.full(len(ratios), group.count, np.int64),
        utilisation=1.0,
    )

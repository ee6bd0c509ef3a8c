"""A particle filter between the steps of a sampler (Liu et al. 2023): particles with a large log-ratio
replace those with a small one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np
import torch

from dgflow.diffusion.noise import RESAMPLING
from dgflow.diffusion.paths import Path, State
from dgflow.diffusion.selection.groups import Group, in_groups
from dgflow.diffusion.selection.resampling import CLIP, Scheme, chosen, effective_size, log_mean, normalised
from dgflow.diffusion.selection.run import Run, Selected

Keep = Literal["weight", "best"]


@dataclass(frozen=True)
class Rule:
    """The rule of resampling.

    Args:
        positions: positions of the path at which weights are evaluated before the move.
        share: resample if the effective size is below this share of the particles; always for 1.
        scheme: see `resampling.chosen`.
        spread: use maximum churn in the move after a resampling, so that copies diverge. A move that does not
            lower the noise level, such as a restart, separates them itself.
    """

    positions: frozenset[int]
    share: float = 1.0
    scheme: Scheme = "systematic"
    spread: bool = True

    def due(self, weights: np.ndarray) -> np.ndarray:
        """True for samples whose particles are to be resampled, bool [samples]."""
        return (self.share == 1.0) | (effective_size(weights) < self.share * weights.shape[1])


class Look(NamedTuple):
    """The weights [samples, particles] before the move from a position, and the chosen particles."""

    position: int
    weights: np.ndarray
    chosen: np.ndarray


class Filtered(NamedTuple):
    """Particles at the end of their path; arrays are [samples, particles].

    Args:
        state: at noise level 0; row r is particle r % count of sample r // count. Evaluations count per row,
            not per ancestor particle.
        log_ratio: log-ratio of the state, not clipped.
        weights: weights of the state since the last resampling, normalised to sum 1.
        log_constant: [samples], the logarithm of an unbiased estimate of the ratio's mean under the model,
            which is 1 for an exact ratio.
        looks: the record at every position of the rule.
    """

    state: State
    log_ratio: np.ndarray
    weights: np.ndarray
    log_constant: np.ndarray
    looks: Sequence[Look]


def filtered(
    path: Path,
    state: State,
    rule: Rule,
    *,
    move: Callable[[State, int, Sequence[bool] | None], State],
    log_ratio: Callable[[State, float], np.ndarray],
    uniforms: Callable[[int], np.ndarray],
) -> Filtered:
    """Run particles from the first position of `path` to its last.

    Weights are exp(l - l'), where l is the log-ratio of real to model and l' is the log-ratio of the copied
    particle at the last resampling, 0 before the first. The weights telescope, so weighted particles converge
    to the data distribution as their number grows, whenever they are resampled.

    Args:
        state: the particles at the first position.
        move: (state, position, rows that must diverge) -> the state at the next position.
        log_ratio: (state, noise level) -> [samples, particles].
        uniforms: position -> numbers in (0, 1), [samples, particles].
    """
    levels, looks = path.levels, list[Look]()
    before = log_constant = np.zeros((1, 1))
    for position in range(len(levels) - 1):
        spread = None
        if position in rule.positions:
            ratios = log_ratio(state, levels[position]).clip(-CLIP, CLIP)
            weights = normalised(ratios - before)
            samples, count = weights.shape
            due = rule.due(weights)[:, None]
            own = np.broadcast_to(np.arange(count), weights.shape)
            going = np.where(due, chosen(weights, uniforms(position), rule.scheme), own)
            log_constant = log_constant + np.where(due, log_mean(ratios - before)[:, None], 0.0)
            before = np.where(due, np.take_along_axis(ratios, going, axis=1), before)
            looks.append(Look(position, weights, going))
            rows = count * np.arange(samples)[:, None] + going
            state = replace(state.rows(rows.ravel().tolist()), evaluations=state.evaluations)
            if rule.spread and levels[position + 1] < levels[position]:
                spread = due.repeat(count).tolist()
        state = move(state, position, spread)
    ratios = log_ratio(state, levels[-1])
    log_weights = ratios.clip(-CLIP, CLIP) - before
    return Filtered(
        state=state,
        log_ratio=ratios,
        weights=normalised(log_weights),
        log_constant=log_constant[:, 0] + log_mean(log_weights),
        looks=looks,
    )


def particles(run: Run, path: Path, start: int, stop: int, count: int, rule: Rule, keep: Keep) -> Selected:
    """Select one of `count` particles for each of the samples [start, stop): drawn by weight, or the one with
    the largest log-ratio.
    """
    return in_groups(run, start, stop, count, partial(_kept, path, rule, keep))


def _kept(path: Path, rule: Rule, keep: Keep, group: Group) -> Selected:
    run, count = group.run, group.count
    parts = [(rows, group.draw(rows)) for rows in group.batches()]
    numbers = [0, *accumulate(path.draws)]  # draws before each move

    def move(state: State, position: int, spread: Sequence[bool] | None) -> State:
        return State.joined(
            [
                path.move(
                    state.rows(rows),
                    [position] * len(rows),
                    draw.asked,
                    lambda number, draw=draw: draw.noise(numbers[position] + number),
                    None if spread is None else spread[rows.start : rows.stop],
                )
                for rows, draw in parts
            ]
        )

    def log_ratio(state: State, level: float) -> np.ndarray:
        x = state.x
        values = [
            run.log_ratio(x[rows.start : rows.stop], x.new_full((len(rows),), level), draw.asked)
            for rows, draw in parts
        ]
        return group.compared(torch.cat(values))

    def uniforms(position: int) -> np.ndarray:
        drawn = run.uniforms(group.samples, step=position, draw=RESAMPLING, shape=(count,))
        return drawn.cpu().numpy()

    begun = State.joined([path.begin(draw.latents) for _, draw in parts])
    end = filtered(path, begun, rule, move=move, log_ratio=log_ratio, uniforms=uniforms)
    if keep == "best":
        best = end.log_ratio.argmax(axis=1)
    else:
        best = chosen(end.weights, uniforms(len(path.levels) - 1), "multinomial")[:, 0]
    samples = np.arange(len(best))
    evaluations = end.state.evaluations.reshape(len(best), count, -1).sum(axis=1)
    kept = end.state.rows((count * samples + best).tolist())
    return Selected(
        x=kept.x,
        labels=run.draw(group.samples).labels,
        log_ratio=torch.from_numpy(end.log_ratio[samples, best]).to(run.device),
        score_evaluations=evaluations[:, 0],
        guide_evaluations=evaluations[:, 1:],
        discriminator_evaluations=np.full(len(best), count * (1 + len(end.looks)), np.int64),
        utilisation=1.0,
    )

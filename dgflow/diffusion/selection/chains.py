"""Run the chains of rejection in batches of one width.

Chains are at different positions and end at different times. Chains that wait for the same operation (a test,
or a move with the same number of evaluations) are batched together, the oldest first. With n kinds of
operations and n * (width - 1) + 1 active chains, one batch can always be filled; a finished chain is replaced
from the queue at once. Once the queue is empty, batches are padded with copies, whose results are discarded.
So networks receive batches of one shape, and a sample's bits do not depend on the other samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from dgflow.diffusion import noise
from dgflow.diffusion.paths import State
from dgflow.diffusion.selection.rejection import Chain, Rule
from dgflow.diffusion.selection.run import Run, Selected
from dgflow.diffusion.times import per_sample

PARTS = 32
"""A batch has at most a shard's rows divided by this number, since some chains are ten times as long as
others and the last chains cannot fill a large batch. With the chain lengths of shards of 500 digits at
quantiles from 0.5 to 0.9, a divisor of 32 keeps 83 to 97 % of the rows in use, and 16 keeps 69 to 89 %.
"""

AHEAD = 16  # number of uniforms drawn at once


def width(batch_size: int, rows: int) -> int:
    """The number of rows per batch for a shard of `rows` rows."""
    return max(1, min(batch_size, rows // PARTS))


class Chains:
    """The chains of the samples `indices`, on the path of `run`."""

    def __init__(self, run: Run, rule: Rule, indices: range) -> None:
        assert run.path is not None
        self.run, self.rule, self.path = run, rule, run.path
        self.end = len(run.path.levels) - 1
        self.left = [sum(run.path.evaluations[at:]) for at in range(self.end + 1)]
        self.back = places_back(run.path.levels, rule.backsteps or 0)
        if rule.budget is not None and self.left[0] > rule.budget:
            raise ValueError(
                f"expected a budget of at least the {self.left[0]} evaluations of one pass, found "
                f"{rule.budget}"
            )
        self.width = width(run.batch_size, len(indices))
        self.queue = iter(indices)
        self.to_test = list[Chain]()
        self.to_move = {evaluations: list[Chain]() for evaluations in run.path.evaluations}
        self.ended = list[Chain]()
        self.results = list[tuple[State, Tensor]]()
        self.needed = self.evaluated = 0
        first = list(islice(self.queue, (1 + len(self.to_move)) * (self.width - 1) + 1))
        draw = run.draw(self._ints(first))
        self.state, self.labels, self.asked = run.path.begin(draw.latents), draw.labels, draw.asked
        self._wait(Chain(index, place) for place, index in enumerate(first))

    @torch.no_grad()
    def selected(self) -> Selected:
        """The samples in order, after all chains have ended.

        Raises ValueError if a chain takes more than `rule.max_checks` log-ratios, and FloatingPointError for
        a NaN log-ratio.
        """
        while waiting := max(self.to_test, *self.to_move.values(), key=len):
            waiting.sort(key=lambda chain: chain.index)
            taken = waiting[: self.width]
            del waiting[: self.width]
            asked = 1 if waiting is self.to_test else self.path.evaluations[taken[0].at]
            self.needed += asked * len(taken)
            self.evaluated += asked * self.width
            (self._test if waiting is self.to_test else self._move)(taken)
        return self._selected()

    def _selected(self) -> Selected:
        order = sorted(range(len(self.ended)), key=lambda number: self.ended[number].index)
        chains, (states, labels) = [self.ended[number] for number in order], zip(*self.results, strict=True)
        state = State.joined(states).rows(order)
        log_ratios = [chain.passed for chain in chains]
        return Selected(
            x=state.x,
            labels=torch.cat(labels)[self._ints(order)],
            log_ratio=torch.tensor(log_ratios, dtype=torch.float64, device=state.x.device),
            score_evaluations=state.evaluations[:, 0],
            guide_evaluations=state.evaluations[:, 1:],
            discriminator_evaluations=np.array([chain.checks for chain in chains]),
            utilisation=self.needed / self.evaluated,
        )

    def _wait(self, chains: Iterable[Chain], *, passed: bool = False) -> None:
        """Queue chains for the test at their positions. Chains that have passed the test, or have none, are
        queued for their next move if the budget suffices for the rest of the path.
        """
        thrown = list[Chain]()
        for chain in chains:
            due = not passed and (chain.at in self.rule.tested or chain.at == self.end)
            if self._breaks_budget(chain) and not (due and chain.at > 0):
                chain.thrown, chain.resets = self._evaluations(chain), chain.resets + 1
                thrown.append(chain)
            else:
                waiting = self.to_test if due else self.to_move[self.path.evaluations[chain.at]]
                waiting.append(chain)
        if thrown:
            self._start_anew(thrown)

    def _breaks_budget(self, chain: Chain) -> bool:
        if self.rule.budget is None:
            return False
        return self._evaluations(chain) - chain.thrown + self.left[chain.at] > self.rule.budget

    def _evaluations(self, chain: Chain) -> int:
        return int(self.state.evaluations[chain.place, 0])

    def _move(self, chains: Sequence[Chain]) -> None:
        """Move chains to their next positions."""
        batch = self._filled(chains)
        index_B = self._ints([chain.index for chain in batch])
        drawn_B = self._ints([chain.churned for chain in batch])
        moved = self.path.move(
            self.state.rows(_places(batch)),
            [chain.at for chain in batch],
            self._asked(batch),
            lambda number: self.run.normals(index_B, step=drawn_B + number, draw=noise.CHURN),
        )
        self.state = self.state.put(_places(chains), moved.rows(range(len(chains))))
        for chain in chains:
            chain.churned += self.path.draws[chain.at]
            chain.at, chain.moved = chain.at + 1, True
        self._wait(chains)

    def _test(self, chains: Sequence[Chain]) -> None:
        """Test chains by their log-ratios: they continue, go back, restart or end."""
        passed, back, anew, ended = (list[Chain]() for _ in range(4))
        self._draw_uniforms(chains)
        for chain, log_ratio in zip(chains, self._log_ratios(chains), strict=True):
            chain.checks += 1
            if chain.at in self.rule.tested:
                uniform, chain.uniforms = chain.ahead.pop(), chain.uniforms + 1
                if not self.rule.passes(chain, log_ratio, uniform):
                    self._check_patience(chain)
                    (anew if chain.at == 0 or self.rule.backsteps is None else back).append(chain)
                    continue
            chain.passed = log_ratio
            (ended if chain.at == self.end else passed).append(chain)
        self._wait(passed, passed=True)
        if back:
            self._go_back(back)
        if anew:
            self._start_anew(anew)
        if ended:
            self._end(ended)

    def _log_ratios(self, chains: Sequence[Chain]) -> list[float]:
        batch = self._filled(chains)
        x = self.state.x[self._ints(_places(batch))]
        levels = [self.path.levels[chain.at] for chain in batch]
        sigma_B = torch.tensor(levels, dtype=torch.float64, device=x.device)
        log_ratios = self.run.log_ratio(x, sigma_B, self._asked(batch)).tolist()[: len(chains)]
        for chain, log_ratio in zip(chains, log_ratios, strict=True):
            if log_ratio != log_ratio:
                raise FloatingPointError(
                    f"expected a log-ratio of every sample, found NaN for sample {chain.index} at noise "
                    f"level {self.path.levels[chain.at]:.4g}, from the score network or the selection's "
                    "discriminator: check their training curves, or use an earlier epoch"
                )
        return log_ratios

    def _draw_uniforms(self, chains: Sequence[Chain]) -> None:
        """Draw the uniforms of the next tests of chains that have none left."""
        short = [chain for chain in chains if not chain.ahead]
        if short:
            index_B = torch.tensor([chain.index for chain in short]).repeat_interleave(AHEAD)
            step_B = torch.tensor([chain.uniforms + number for chain in short for number in range(AHEAD)])
            drawn = self.run.uniforms(index_B, step=step_B, draw=noise.REJECTION_UNIFORM)
            for chain, uniforms in zip(short, drawn.view(-1, AHEAD).tolist(), strict=True):
                chain.ahead = uniforms[::-1]

    def _check_patience(self, chain: Chain) -> None:
        if chain.checks >= self.rule.max_checks:
            raise ValueError(
                f"expected every sample to pass its tests within max_checks={self.rule.max_checks:,} "
                f"log-ratios, found sample {chain.index} rejected once more at noise level "
                f"{self.path.levels[chain.at]:.4g}: measure the thresholds with a smaller quantile, check "
                "the discriminator's held-out loss, or raise max_checks"
            )

    def _go_back(self, chains: Sequence[Chain]) -> None:
        """Send chains back to a higher noise level."""
        levels, places, added = self.path.levels, self._ints(_places(chains)), list[float]()
        normals = self._normals(chains)
        for chain in chains:
            low, chain.at, chain.moved = levels[chain.at], self.back[chain.at], False
            added.append((levels[chain.at] ** 2 - low**2) ** 0.5)
        scale_B = torch.tensor(added, dtype=torch.float64, device=places.device)
        x = self.state.x.index_add(0, places, per_sample(scale_B, normals) * normals)
        self.state = self.state.with_x(x)
        self._wait(chains)

    def _start_anew(self, chains: Sequence[Chain]) -> None:
        """Restart chains at the beginning of the path, with new latents."""
        places = _places(chains)
        fresh = self.path.begin(self._normals(chains))
        self.state = self.state.put(places, replace(fresh, evaluations=self.state.evaluations[places]))
        for chain in chains:
            chain.at, chain.moved = 0, False
        self._wait(chains)

    def _normals(self, chains: Sequence[Chain]) -> Tensor:
        """Each chain's next normals for new noise."""
        index_B, step_B = self._ints([c.index for c in chains]), self._ints([c.normals for c in chains])
        for chain in chains:
            chain.normals += 1
        return self.run.normals(index_B, step=step_B, draw=noise.REJECTION_NORMAL)

    def _end(self, chains: Sequence[Chain]) -> None:
        """Remove finished chains, and replace them from the queue."""
        places = _places(chains)
        self.ended += chains
        self.results.append((self.state.rows(places), self.labels[self._ints(places)]))
        indices = list(islice(self.queue, len(places)))
        if not indices:
            return
        draw, places = self.run.draw(self._ints(indices)), places[: len(indices)]
        self.state = self.state.put(places, self.path.begin(draw.latents))
        self.labels = self.labels.index_copy(0, self._ints(places), draw.labels)
        if self.asked is not None and draw.asked is not None:
            self.asked = self.asked.index_copy(0, self._ints(places), draw.asked)
        self._wait(Chain(index, place) for index, place in zip(indices, places, strict=True))

    def _filled(self, chains: Sequence[Chain]) -> list[Chain]:
        """Pad the chains to a full batch with copies of the last one."""
        return [*chains, *[chains[-1]] * (self.width - len(chains))]

    def _asked(self, chains: Sequence[Chain]) -> Tensor | None:
        return None if self.asked is None else self.asked[self._ints(_places(chains))]

    def _ints(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.run.device)


def places_back(levels: Sequence[float], steps: int) -> list[int]:
    """The position `steps` noise levels above each position, or the first position. Of several positions at
    one level it is the last, so that restarts are not repeated.
    """
    higher = [0]
    for at in range(1, len(levels)):
        higher.append(at - 1 if levels[at - 1] > levels[at] else higher[-1])
    places = list(range(len(levels)))
    for _ in range(steps):
        places = [higher[at] for at in places]
    return places


def _places(chains: Sequence[Chain]) -> list[int]:
    return [chain.place for chain in chains]

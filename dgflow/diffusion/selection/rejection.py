"""Rejection along the path of a sampler: a sample continues, goes back or restarts (DiffRS, Na et al. 2024,
arXiv 2405.17880).

Every sample has its own chain of moves and tests, which runs to its end; the result has the sample's index,
so quick chains are not preferred. `chains` runs many chains side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

SMALLEST_UNIFORM = 1e-7
"""Added to uniforms before their logarithm is taken, as published."""


@dataclass(frozen=True)
class Rule:
    """The rule of the tests, and of what follows a failed one.

    Args:
        first: by position, the minimum log-ratio of a chain that arrived by a move, relative to its last
            passed test (0 before any). As in `again`, log(u) is added, with u uniform.
        again: by position, the minimum log-ratio of a chain that arrived by new noise.
        tested: the positions with a test.
        backsteps: number of noise levels by which a chain goes back; None to restart.
        budget: evaluations of the score network within which a chain must end; otherwise it is discarded and
            restarts. None for no limit.
        max_checks: maximum number of log-ratios per chain; more stop the run.
    """

    first: Sequence[float]
    again: Sequence[float]
    tested: range
    backsteps: int | None = 1
    budget: int | None = None
    max_checks: int = 10_000

    def passes(self, chain: Chain, log_ratio: float, uniform: float) -> bool:
        """True for a chain that passes the test at its position."""
        least = self.first[chain.at] + chain.passed if chain.moved else self.again[chain.at]
        return log_ratio >= least + math.log(uniform + SMALLEST_UNIFORM)


@dataclass(eq=False)
class Chain:
    """The state of one sample's chain on the host.

    Args:
        index: index of the sample.
        place: row in the state of all chains.
        at: current position.
        moved: True if it arrived by a move rather than by new noise.
        passed: log-ratio of the last passed test; at the end, of the sample.
        thrown: evaluations of the score network up to the last discard by the budget.
        uniforms, normals, churned: number of draws so far for tests, for new noise, and in moves.
        ahead: uniforms of the next tests, in reverse order.
        checks: number of log-ratios so far.
        resets: number of discards by the budget.
    """

    index: int
    place: int
    at: int = 0
    moved: bool = False
    passed: float = 0.0
    thrown: int = 0
    uniforms: int = 0
    normals: int = 0
    churned: int = 0
    ahead: list[float] = field(default_factory=list)
    checks: int = 0
    resets: int = 0

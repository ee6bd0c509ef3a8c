"""Rejection along the path of a sampler: when a sample goes on, goes back, or starts anew (DiffRS, Na et al.
2024, arXiv 2405.17880).

Every sample owns a chain of moves and tests, which is run to its end; its result stands at its own index. So
quick chains are not preferred. `chains` runs many of them side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

SMALLEST_UNIFORM = 1e-7
"""Added to uniforms before their logarithm is taken, as published."""


@dataclass(frozen=True)
class Rule:
    """When a chain passes a test, and what happens if it does not.

    Args:
        first: by position, the least log-ratio of a chain that came by a move, relative to that of the last
            test that it passed (0 before any). As in `again`, log(u) is added, u uniform.
        again: by position, the least log-ratio of a chain that came by new noise.
        tested: the positions with a test.
        backsteps: the number of noise levels that a chain goes back; None to start anew.
        budget: evaluations of the score network within which a chain has to end, else it is thrown away and
            starts anew; None for no limit.
        max_checks: log-ratios of one chain after which the run is stopped.
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
    """The course of one sample, as the host knows it.

    Args:
        index: of the sample.
        place: its row in the state of all chains.
        at: its position.
        moved: it came there by a move, not by new noise.
        passed: the log-ratio of the last test that it passed, and at its end that of the sample.
        thrown: evaluations of the score network until the budget last threw it away.
        uniforms, normals, churned: draws so far, for tests, for new noise, and in moves.
        ahead: uniforms of its next tests, the first one last.
        checks: log-ratios so far.
        resets: how often the budget threw it away.
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

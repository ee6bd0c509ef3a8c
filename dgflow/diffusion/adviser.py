"""Evaluate network and guidance in one step of a sampler, and count evaluations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from dgflow.diffusion.evaluation import Network, Place, evaluate
from dgflow.diffusion.guidance import Advice, Correction, Guide, asked_of
from dgflow.diffusion.rows import Levels, Rows


class Adviser:
    """Evaluate the score network, and all entries of guidance on its images, in one step.

    Args:
        numbers: step number at every position, see `Point.step`.
        began: noise levels at which the step began, before churn.
    """

    def __init__(
        self,
        guidance: Sequence[Guide],
        class_labels: Tensor | None,
        rows: Rows,
        numbers: Sequence[int],
        began: Levels,
    ) -> None:
        self.guidance, self.class_labels, self.rows, self.began = guidance, class_labels, rows, began
        self.step = rows.step(numbers)
        self.counts: np.ndarray = np.zeros((len(began.groups), 1 + len(guidance)), np.int64)
        self.asked: np.ndarray = np.zeros((len(began.groups), len(guidance)), bool)

    @property
    def evaluations(self) -> np.ndarray:
        """Evaluations so far of the score network and of each entry, int64 [B, 1 + entries]."""
        return self.rows.counts(self.counts)

    def __call__(
        self,
        network: Network,
        state: tuple[Tensor, ...],
        levels: Levels,
        order: int,
        taking_part: Sequence[bool] | None = None,
    ) -> tuple[Advice, Tensor | None]:
        """Evaluate a state at noise levels; returns (advice on the network's image, the predictor's v).

        taking_part: True for each group of rows whose evaluation counts; None for all.
        """
        began = self.began
        place = Place(
            levels.sigma, self.class_labels, self.step, order, levels.bounds, began.sigma, began.bounds
        )
        advice, v = evaluate(network, state, self.guidance, place)
        groups = list(zip(levels.groups, began.groups, strict=True))
        asked = asked_of(self.guidance, advice.asked, order, groups)
        counts = np.insert(asked.astype(np.int64), 0, 1, axis=1)
        if taking_part is not None:
            counts = counts * np.asarray(taking_part)[:, None]
        self.counts, self.asked = self.counts + counts, asked
        return advice, v

    @property
    def is_guided(self) -> list[bool]:
        """True for each group of rows on which a gradient acted in the last evaluation."""
        terms = np.array([not isinstance(entry, Correction) for entry in self.guidance], bool)
        return [bool((asked & terms).any()) for asked in self.asked]

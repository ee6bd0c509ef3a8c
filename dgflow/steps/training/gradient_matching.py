"""The loss term of a discriminator's training that matches its gradient to the error of a score network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dgflow.diffusion.gain import Moments
from dgflow.diffusion.gradient_matching import gradient_loss, logits_and_gradients
from dgflow.diffusion.ranges import ROUNDING
from dgflow.steps.frozen_score import FrozenScore
from dgflow.steps.training.discriminator_data import LabelledRows


@dataclass(frozen=True)
class GradientMatching:
    """The logits of noisy rows, and the loss of their gradients for real rows.

    Args:
        score: the network that is to be guided.
        weight: factor of the loss of each real row, which the task adds to the cross-entropy of all rows.
        sigma_range: the levels that the score network knows, where the loss acts. Rows at other levels do not
            have this loss.
    """

    score: FrozenScore
    weight: float
    sigma_range: tuple[float, float]

    def rounded(self, sigma_B: Tensor) -> Tensor:
        """Returns the levels of rows (float64, on the CPU), with those inside the range rounded to the score
        network's levels."""
        return torch.where(self._inside(sigma_B), self.score.rounded(sigma_B), sigma_B)

    def logits_and_loss(
        self,
        logits: Callable[[Tensor], Tensor],
        noisy: Tensor,
        rows: LabelledRows,
        sigma_B: Tensor,
        normals: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Returns the logits [b] of the rows, and the loss of their gradients, float64 [b]: 0 for fake ones.

        Args:
            logits: noisy rows -> logits, called once.
            noisy: the rows with their noise, scaled to preserve variance.
            sigma_B: `rounded` levels, on the device.
            normals: the noise of the rows.
        """
        logit_B, gradient = logits_and_gradients(logits, noisy, sigma_B)
        loss_B = torch.zeros(len(logit_B), dtype=torch.float64, device=noisy.device)
        matched = torch.where(rows.is_real.to(noisy.device) & self._inside(sigma_B))[0]
        if not len(matched):
            return logit_B, loss_B
        images, labels, sigma_M, normals = (
            values[matched] for values in (rows.images, rows.labels, sigma_B, normals)
        )
        residual = self.score.denoised(images, labels, sigma_M, normals).residual
        moments = Moments.of(residual, gradient[matched], sigma_M)
        return logit_B, loss_B.index_copy(0, matched, gradient_loss(moments))

    def _inside(self, sigma_B: Tensor) -> Tensor:
        low, high = self.sigma_range
        return (sigma_B >= low * (1 - ROUNDING)) & (sigma_B <= high * (1 + ROUNDING))

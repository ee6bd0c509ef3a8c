"""Classifier guidance (Dhariwal & Nichol 2021): the weighted gradient of log p(y | x) of a classifier of
noisy images.

Weight, window and entropy scaling (Li et al. 2022, "EDS") are the term's own. How the classifier is built and
trained, and in which unit it is told the time, is left to `networks`, `losses` and the caller's time map.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dgflow.diffusion.guidance import (
    Point,
    Switch,
    check_window,
    edges,
    finite,
    sleeps,
    weight_at,
    window_tau,
)
from dgflow.diffusion.times import TimeMap, per_sample, tau_from_sigma

ENTROPY_FLOOR = 1e-4
"""Least entropy, in nats, that the entropy scale is computed with. Float32 still knows an entropy of this
size to within 1 %, and the scale stays below 6.91e4; a classifier this sure has almost no gradient left to
scale."""

Classifier = Callable[[Tensor, Tensor], Tensor]
"""(y [B, ...] float32 in variance-preserving scaling, its time [B] float32) -> logits [B, K]."""


@dataclass(frozen=True)
class ClassifierGuidance:
    """Weighted gradient of a classifier: score + weight * grad_x log p(class_labels | x) (Dhariwal & Nichol
    2021, equation 10).

    Args:
        classifier: logits of (y, time), y = x / sqrt(1 + sigma^2); parameters that do not require gradients
            save their memory.
        weight: number, or a `Switch` of it by tau. Where it is 0 for the whole step nothing is evaluated.
        tau_min, tau_max: the window in linear-VP time, bounds included; 1 means no upper end.
        time: what the classifier is told for a noise level: linear-VP time, `times.cosine_from_sigma`, or for
            the published upstream classifiers the index of a discrete schedule, 0 to 999.
        entropy_scaling: multiply each sample's weight by `entropy_scale`.
        entropy_classes, entropy_floor: see there.

    A NaN of the classifier inside the window is passed on. There is no log-ratio.
    """

    classifier: Classifier
    weight: float | Switch = 1.0
    tau_min: float = 0.0
    tau_max: float = 1.0
    time: TimeMap = tau_from_sigma
    entropy_scaling: bool = False
    entropy_classes: int = 1000
    entropy_floor: float = ENTROPY_FLOOR

    def __post_init__(self) -> None:
        check_window(self.tau_min, self.tau_max)
        if not finite(self.weight):
            raise ValueError(f"expected a finite weight, found weight={self.weight}")
        if self.entropy_classes < 2 or not 0.0 <= self.entropy_floor < math.inf:
            found = f"entropy_classes={self.entropy_classes}, entropy_floor={self.entropy_floor}"
            raise ValueError(f"expected entropy_classes >= 2 and entropy_floor >= 0, found {found}")

    @property
    def tau_edges(self) -> tuple[float, ...]:
        """Times at which the gradient jumps."""
        return edges(window_tau(self.tau_min, self.tau_max), self.weight)

    def __call__(self, point: Point) -> tuple[Tensor | None, None]:
        """See `GuidanceTerm`. None if no sample can be in the window or the weight is 0 for all, else zero
        for each sample outside.

        Raises ValueError without class labels.
        """
        if point.class_labels is None:
            raise ValueError(
                "classifier guidance needs class_labels, int64 [B] or one-hot [B, K]: give the sampler "
                "some, or drop the term"
            )
        low, high = window_tau(self.tau_min, self.tau_max)
        if sleeps(self.weight, (low, high), point.sigma_bounds):
            return None, None
        tau = tau_from_sigma(point.sigma.double())
        weight_B = weight_at(self.weight, tau)
        logits, gradient = logits_and_gradient(
            self.classifier, point.x, point.sigma, point.class_labels, time=self.time
        )
        if self.entropy_scaling:
            weight_B = weight_B * entropy_scale(logits, self.entropy_classes, self.entropy_floor)
        inside = (tau >= low) & (tau <= high)
        # Chosen by where, not multiplied by 0: a classifier may overflow at noise levels outside its window.
        return torch.where(per_sample(inside, gradient), gradient * per_sample(weight_B, gradient), 0.0), None


def entropy_scale(logits: Tensor, classes: int = 1000, floor: float = ENTROPY_FLOOR) -> Tensor:
    """log(classes) / H [B] float64, H the entropy in nats of softmax(logits [B, K]): more guidance where the
    classifier is surer.

    The guidance of an ancestral sampler vanishes early because the classifier is sure early; this keeps it up
    (Li et al. 2022, "Entropy- driven Sampling and Training Scheme for Conditional Diffusion Generation"). It
    is a factor of the weight: gradients do not pass.

    Args:
        classes: the published constant is 1000 whatever the number of classes K, so that a uniform answer
            over 10 gives 3, not 1.
        floor: H counts as at least this. 0 is the published form, whose scale is infinite where float32
            rounds H to 0 (a logit ahead of the others by 104 or more), and whose guidance is NaN there as 0 *
            inf.
    """
    with torch.no_grad():
        return (math.log(classes) / entropy(logits).clamp_min(floor)).double()


def entropy(logits: Tensor) -> Tensor:
    """Entropy [B] of softmax(logits [B, K]) in nats; of float32 logits it is 5 % off where one is 20 ahead,
    and 0 where it is 104 ahead."""
    # p by softmax and not by exp of its logarithm: the published arithmetic, whose rounding is all that
    # remains of a sure answer's entropy.
    logits = _at_least_float32(logits)
    return (logits.softmax(dim=1) * -logits.log_softmax(dim=1)).sum(dim=1)


def logits_and_gradient(
    classifier: Classifier, x: Tensor, sigma: Tensor, class_labels: Tensor, *, time: TimeMap = tau_from_sigma
) -> tuple[Tensor, Tensor]:
    """The classifier's logits [B, K] for x at noise levels sigma [B], and the gradient of log p(class_labels
    | x) in x, float64.

    class_labels: int64 [B], or one-hot rows [B, K], whose largest entry counts. The classifier sees float32 y
        = x / sqrt(1 + sigma^2).
    Raises ValueError for logits or labels of another shape.
    """
    sigma = sigma.double()
    mean = per_sample((1.0 + sigma.square()).rsqrt(), x)
    t_B = time(sigma).float()
    index = class_labels.argmax(dim=1) if class_labels.ndim == 2 else class_labels
    if index.shape != sigma.shape or index.is_floating_point():
        found = f"{class_labels.dtype} {list(class_labels.shape)}"
        raise ValueError(
            f"expected class_labels int64 {list(sigma.shape)} or one-hot [{len(sigma)}, K], found {found}"
        )
    with torch.enable_grad():
        y = (mean * x).detach().float().requires_grad_()
        logits = classifier(y, t_B)
        if logits.ndim != 2 or logits.shape[:1] != sigma.shape:
            raise ValueError(
                f"expected logits [{len(sigma)}, classes], found {list(logits.shape)}: check the "
                "classifier's head"
            )
        log_p = _at_least_float32(logits).log_softmax(dim=1).gather(1, index.long()[:, None])
        (gradient,) = torch.autograd.grad(log_p.sum(), y)
    return logits.detach(), mean * gradient.double()


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))

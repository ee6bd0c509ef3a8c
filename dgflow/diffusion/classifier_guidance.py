"""Classifier guidance (Dhariwal & Nichol 2021): the weighted gradient of log p(y | x) of a classifier of
noisy images, with entropy scaling (Li et al. 2022, "EDS")."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dgflow.diffusion.guidance import (
    Bounds,
    Point,
    at_least_float32,
    edges,
    is_idle,
    scale_at,
    vp_gradient,
    weighted,
)
from dgflow.diffusion.guidance_settings import ClassifierSettings
from dgflow.diffusion.times import TimeMap, tau_from_sigma

ENTROPY_FLOOR = ClassifierSettings().entropy_floor
"""Default lower bound of the entropy, in nats. Float32 represents this entropy to within 1 %, and the scale
stays below 6.91e4. At a lower entropy, the classifier has almost no gradient left to scale.
"""

ENTROPY_CLASSES = 1000
"""The published number of classes in the scale's numerator, log(1000), for data with any number of classes: a
uniform output over 10 classes gives scale 3, not 1.
"""

Classifier = Callable[[Tensor, Tensor], Tensor]
"""(y [B, ...] float32 in variance-preserving scaling, its time [B] float32) -> logits [B, K]."""


@dataclass(frozen=True)
class ClassifierTerm:
    """score + weight * grad_x log p(class_labels | x) (Dhariwal & Nichol 2021, equation 10).

    Args:
        classifier: logits of (y, time), y = x / sqrt(1 + sigma^2). Freeze its parameters to save the memory
            of their gradients.
        settings: weight, window, entropy scaling. Nothing is evaluated in a step with weight 0 throughout.
        time: the classifier's time for a noise level: linear-VP time, `times.cosine_from_sigma`, or for the
            published upstream classifiers the index of a discrete schedule, 0 to 999.

    A NaN of the classifier inside the window propagates. The term has no log-ratio.
    """

    classifier: Classifier
    settings: ClassifierSettings = ClassifierSettings()
    time: TimeMap = tau_from_sigma

    @property
    def tau_edges(self) -> tuple[float, ...]:
        """Times at which the gradient jumps."""
        return edges(self.settings.window, self.settings.weight)

    def acts(self, order: int, sigmas: Bounds, began: Bounds) -> bool:
        """See `GuidanceTerm`."""
        del order, began
        return not is_idle(self.settings.weight, self.settings.window, sigmas)

    def __call__(self, point: Point) -> tuple[Tensor | None, None]:
        """See `GuidanceTerm`. Returns None if no sample can be in the window or the weight is 0 for all;
        otherwise zero for each sample outside the window.

        Raises ValueError without class labels.
        """
        if point.class_labels is None:
            raise ValueError(
                "classifier guidance needs class_labels, int64 [B] or one-hot [B, K], found none: pass "
                "labels to the sampler, or remove the term"
            )
        settings = self.settings
        if not self.acts(point.order, point.sigma_bounds, point.began[1]):
            return None, None
        low, high = settings.window
        tau = tau_from_sigma(point.sigma.double())
        weight_B = scale_at(settings.weight, tau)
        logits, gradient = logits_and_gradient(
            self.classifier, point.x, point.sigma, point.class_labels, time=self.time
        )
        if settings.entropy_scaling:
            weight_B = weight_B * entropy_scale(logits, settings.entropy_floor)
        return weighted(gradient, weight_B, (tau >= low) & (tau <= high)), None


def entropy_scale(logits: Tensor, floor: float = ENTROPY_FLOOR) -> Tensor:
    """log(1000) / H [B] float64, with H the entropy in nats of softmax(logits [B, K]), at least `floor`.
    Guidance is stronger where the classifier is more certain.

    An ancestral sampler's guidance vanishes early because the classifier becomes certain early; the scale
    sustains it (Li et al. 2022, "Entropy-driven Sampling and Training Scheme for Conditional Diffusion
    Generation"). The scale multiplies the weight and is not differentiated. A floor of 0 is the published
    form: its scale is infinite where float32 rounds H to 0 (one logit ahead of the others by at least 104),
    and its guidance is NaN there, as 0 * inf.
    """
    return (math.log(ENTROPY_CLASSES) / entropy(logits).clamp_min(floor)).double()


def entropy(logits: Tensor) -> Tensor:
    """Entropy [B] of softmax(logits [B, K]) in nats.

    With float32 logits, the result is 5 % off if one logit exceeds the others by 20, and 0 if by 104.
    """
    # Softmax rather than the exponential of log-softmax, as published: for a nearly certain output, its
    # rounding determines the entropy.
    logits = at_least_float32(logits)
    return (logits.softmax(dim=1) * -logits.log_softmax(dim=1)).sum(dim=1)


def logits_and_gradient(
    classifier: Classifier, x: Tensor, sigma: Tensor, class_labels: Tensor, *, time: TimeMap = tau_from_sigma
) -> tuple[Tensor, Tensor]:
    """The classifier's logits [B, K] for x at noise levels sigma [B], and the gradient of log p(class_labels
    | x) in x, float64; see `guidance.vp_gradient`.

    class_labels: int64 [B], or one-hot rows [B, K], whose largest entry marks the class. Raises ValueError
    for logits or labels of another shape.
    """
    index = class_labels.argmax(dim=1) if class_labels.ndim == 2 else class_labels
    if index.shape != sigma.shape or index.is_floating_point():
        found = f"{class_labels.dtype} {list(class_labels.shape)}"
        raise ValueError(
            f"expected class_labels int64 {list(sigma.shape)} or one-hot [{len(sigma)}, K], found {found}"
        )

    def ask(y: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
        logits = classifier(y, t_B)
        if logits.ndim != 2 or logits.shape[:1] != sigma.shape:
            raise ValueError(
                f"expected logits [{len(sigma)}, classes], found {list(logits.shape)}: check the "
                "classifier's head"
            )
        return logits, at_least_float32(logits).log_softmax(dim=1).gather(1, index.long()[:, None])

    return vp_gradient(ask, x, sigma, time)

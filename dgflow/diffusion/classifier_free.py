"""Classifier-free guidance (Ho & Salimans 2022) around a network that knows a "no class" label: one class for
each form of network.

Promises one call of the network a step, on the conditional and the unconditional rows together, and no
    doubled state: the originals also
carry a second, unused set of samples. Which label means "no class" is the caller's to say.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dgflow.diffusion.guidance import Switch, finite, weight_at
from dgflow.diffusion.samplers import Denoiser, Predictor
from dgflow.diffusion.times import TimeMap, per_sample, tau_from_sigma


@dataclass(frozen=True)
class ClassifierFree:
    """A `samplers.Predictor` guided towards its class: epsilon = null + scale * (conditional - null); v stays
    the conditional one.

    Args:
        predictor: called with 2 B rows, conditional ones first; with B rows, and no null ones, if the scale
            is 1 throughout.
        null_label: label that means "no class": an index (DiT's is its number of classes), or None for
            networks that take one-hot rows, where it is a row of zeros.
        scale: 1 is the conditional network itself, 0 the unconditional one; or a `Switch` by the predictor's
            own time, such as DiT-G++'s Switch(above=1.25, below=3.0, at=200) by timestep.
        channels: the first so many channels are guided and the others stay conditional; None for all. DiT as
            published guides 3 of 4.
    """

    predictor: Predictor
    null_label: int | None
    scale: float | Switch
    channels: int | None = 3

    def __post_init__(self) -> None:
        _check(self.scale, self.channels)

    def __call__(self, y: Tensor, time: Tensor, class_labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """See `samplers.Predictor`. Raises ValueError without class labels."""
        if _is_one(self.scale):
            return self.predictor(y, time, class_labels)
        labels = _with_null(class_labels, self.null_label)
        epsilon, v = self.predictor(torch.cat([y, y]), torch.cat([time, time]), labels)
        return _guided(epsilon, self.scale, time, self.channels), None if v is None else v[: len(y)]


@dataclass(frozen=True)
class ClassifierFreeDenoiser:
    """`ClassifierFree` for a `samplers.Denoiser`: as denoised = x - sigma * epsilon, the same formula holds
    for denoised images.

    Arguments as there; a `Switch` of the scale is by `time` of sigma, linear-VP time if not given, and all
    channels are guided.
    """

    denoiser: Denoiser
    null_label: int | None
    scale: float | Switch
    channels: int | None = None
    time: TimeMap = tau_from_sigma

    def __post_init__(self) -> None:
        _check(self.scale, self.channels)

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        """See `samplers.Denoiser`. Raises ValueError without class labels."""
        if _is_one(self.scale):
            return self.denoiser(x, sigma, class_labels)
        labels = _with_null(class_labels, self.null_label)
        denoised = self.denoiser(torch.cat([x, x]), torch.cat([sigma, sigma]), labels)
        return _guided(denoised, self.scale, self.time(sigma), self.channels)


def _guided(both: Tensor, scale: float | Switch, time_B: Tensor, channels: int | None) -> Tensor:
    """null + scale * (conditional - null) on the first `channels` of [2 B, C, ...], the conditional ones
    elsewhere: [B, C, ...]."""
    # The difference is amplified: in float32 at least, whatever the network's precision.
    conditional, null = both.to(torch.promote_types(both.dtype, torch.float32)).chunk(2)
    scale_B = per_sample(weight_at(scale, time_B), both).to(conditional.dtype)
    guided = null[:, :channels] + scale_B * (conditional[:, :channels] - null[:, :channels])
    return guided if channels is None else torch.cat([guided, conditional[:, channels:]], dim=1)


def _with_null(class_labels: Tensor | None, null_label: int | None) -> Tensor:
    if class_labels is None:
        raise ValueError(
            "classifier-free guidance needs class_labels, int64 [B] or one-hot [B, K]: give the sampler "
            "labels, or scale 1"
        )
    if (class_labels.ndim == 2) != (null_label is None):
        wanted = (
            "one-hot rows [B, K], as null_label is None"
            if null_label is None
            else f"indices [B], as null_label is {null_label}"
        )
        raise ValueError(
            f"expected class_labels to be {wanted}, found {list(class_labels.shape)}: change either"
        )
    return torch.cat([class_labels, torch.full_like(class_labels, null_label or 0)])


def _is_one(scale: float | Switch) -> bool:
    return scale.above == scale.below == 1.0 if isinstance(scale, Switch) else scale == 1.0


def _check(scale: float | Switch, channels: int | None) -> None:
    if not finite(scale) or (channels is not None and channels < 1):
        raise ValueError(
            f"expected a finite scale and channels >= 1 or None, found scale={scale}, channels={channels}"
        )

"""Classifier-free guidance (Ho & Salimans 2022) around a network that has a "no class" label."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dgflow.diffusion.guidance import at_least_float32, scale_at
from dgflow.diffusion.guidance_settings import ClassifierFree, Switch
from dgflow.diffusion.samplers import Predictor
from dgflow.diffusion.times import per_sample


@dataclass(frozen=True)
class ClassifierFreePredictor:
    """A `samplers.Predictor` guided towards the class: epsilon = null + scale * (conditional - null), with
    the v of the conditional rows.

    The network is called once per step, on conditional and unconditional rows together; the original code
    also carries a second, unused set of samples.

    Args:
        predictor: called with 2 B rows, conditional ones first; with B conditional rows only, if the scale is
            1 throughout.
        null_label: index for "no class" (for DiT, the number of classes).
        settings: scale and channels. Scale 1 is the conditional network, scale 0 the unconditional one; a
            `Switch` refers to the predictor's own time. Unguided channels stay conditional.
    """

    predictor: Predictor
    null_label: int
    settings: ClassifierFree

    def __call__(self, y: Tensor, time: Tensor, class_labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """See `samplers.Predictor`. Raises ValueError without class labels."""
        scale, channels = self.settings.scale, self.settings.channels
        if (scale.above == scale.below == 1.0) if isinstance(scale, Switch) else scale == 1.0:
            return self.predictor(y, time, class_labels)
        if class_labels is None or class_labels.ndim != 1:
            shape = None if class_labels is None else list(class_labels.shape)
            raise ValueError(
                f"classifier-free guidance needs class_labels, int64 [B], found {shape}: give the sampler "
                "labels, or scale 1"
            )
        labels = torch.cat([class_labels, torch.full_like(class_labels, self.null_label)])
        epsilon, v = self.predictor(torch.cat([y, y]), torch.cat([time, time]), labels)
        # At least float32 for any network precision, since the difference is amplified.
        conditional, null = at_least_float32(epsilon).chunk(2)
        scale_B = per_sample(scale_at(scale, time, "timestep"), epsilon).to(conditional.dtype)
        guided = null[:, :channels] + scale_B * (conditional[:, :channels] - null[:, :channels])
        if channels is not None:
            guided = torch.cat([guided, conditional[:, channels:]], dim=1)
        return guided, None if v is None else v[: len(y)]

"""The computation of `Likelihood`: dequantised pixels, bits per dimension of every image, and their means.

All random numbers are functions of (seed, index of the image, repeat), the same for all arms and noise
levels, so that arms are compared on equal draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dgflow.diffusion import noise
from dgflow.diffusion.acceleration import device
from dgflow.diffusion.batches import Batches
from dgflow.diffusion.likelihood import bits_per_dimension, log_likelihood, nelbo
from dgflow.diffusion.ranges import EDM_RANGE
from dgflow.diffusion.score_model import first_outside
from dgflow.specs.bound import Bound
from dgflow.steps.arm_values import standard_error
from dgflow.steps.gain_choices import gain_choices
from dgflow.steps.guides import without_weights
from dgflow.steps.image_rows import image_rows
from dgflow.steps.judging.likelihood_fields import LikelihoodFields
from dgflow.steps.systems import Networks, System

PIXELS = 127.5
"""Values of a pixel per unit of the networks' images, x = pixel / 127.5 - 1."""

Values = dict[str, np.ndarray]
"""The values of some images by noise level, [images, levels]: a method's bits per dimension, and the ODE's
`nfe`."""


class Span(NamedTuple):
    """The noise levels at which the ODE begins, ascending, and the level at which it ends."""

    levels: tuple[float, ...]
    highest: float


def span(step: LikelihoodFields) -> Span:
    """Returns the noise levels of a step.

    Raises ValueError for a network that has no ODE, or none at these levels.
    """
    model = without_weights(step.score)
    if model.round_sigma is not None:
        raise ValueError(
            f"{step.name}: expected a network of continuous noise levels, which define an ODE, found "
            f"{step.score.title}, which has discrete levels"
        )
    low, high = model.narrowed(*EDM_RANGE)
    low = low if step.sigma_min is None else step.sigma_min
    high = high if step.sigma_max is None else step.sigma_max
    levels = (low, *step.truncations)
    known = model.sigma_range
    if first_outside((low, high), *known) is not None:
        raise ValueError(
            f"{step.name}: expected noise levels from {known[0]:g} to {known[1]:g}, which the score network "
            f"was made for, found {low:g} to {high:g}; change sigma_min and sigma_max"
        )
    if [*levels, high] != sorted({*levels, high}):
        raise ValueError(
            f"{step.name}: expected truncations that rise between {low:g} and {high:g}, where the ODE begins "
            f"and ends, found {', '.join(f'{level:g}' for level in step.truncations)}"
        )
    return Span(levels, high)


class Meter:
    """Measures an arm on some images, with networks that are loaded once.

    Args:
        at_once: images per piece of the work.
    """

    def __init__(self, step: LikelihoodFields, inputs: Bound, ends: Span, at_once: int) -> None:
        self.step, self.ends, self.at_once, self.device = step, ends, at_once, device()
        networks = Networks(inputs, self.device, "float32")
        choices = gain_choices(step.guides, inputs)
        self.arms = {
            name: networks.system(step.score, terms, f"arms.{name}", choices)
            for name, terms in step.arms.items()
        }
        self.rows = image_rows(inputs, "real", seed=step.seed, source=step.real.title)
        self.batches = Batches(step.batch_size, of=step.name)

    def __call__(self, item: tuple[str, int]) -> Values:
        """Returns the values of an arm on the images from a number on."""
        name, start = item
        stop = min(start + self.at_once, self.step.real.rows)
        parts = self.batches.map(partial(self._measured, self.arms[name]), start, stop)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _measured(self, arm: System, first: int, last: int) -> Values:
        """Returns the means over the repeats."""
        step, levels = self.step, self.ends.levels
        images, labels = self.rows(torch.arange(first, last))
        self._check_labels(arm, labels)
        index_B = torch.arange(step.real.start + first, step.real.start + last, device=self.device)
        nats = {method: torch.zeros(last - first, len(levels)).double() for method in step.methods}
        nfe = torch.zeros(last - first, len(levels)).double()
        for repeat in range(step.repeats):
            draws = _Draws(step, index_B, repeat)
            x0 = draws.continuous(images)
            options = {"sigma_max": self.ends.highest, "guidance": arm.terms}
            options["class_labels"] = labels if arm.classes else None
            for number, level in enumerate(levels):
                options["sigma_min"] = level
                if "nll" in nats:
                    values, evaluations = self._flow(arm, draws, x0, level, options)
                    nats["nll"][:, number] += values.cpu()
                    nfe[:, number] += evaluations.cpu() / step.repeats
                if "nelbo" in nats:
                    bound = {"uniforms": draws.uniforms(), "normals": _BoundNormals(draws, x0)}
                    nats["nelbo"][:, number] += nelbo(arm.score.denoiser, x0, **bound, **options).cpu()
        self._check_finite(nats, index_B)
        unit, size = PIXELS if step.dequantise else 1.0, step.real.step.shape.values
        bits = {
            method: bits_per_dimension(-values / step.repeats, size, unit=unit).numpy()
            for method, values in nats.items()
        }
        return bits | {"nfe": nfe.numpy()}

    def _flow(
        self, arm: System, draws: _Draws, x0: Tensor, level: float, options: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Returns (-log p [B] in nats, evaluations [B])."""
        step = self.step
        result = log_likelihood(
            arm.score.denoiser,
            x0 + level * draws.normals(x0, noise.TRUNCATION, draws.repeat) if step.noised else x0,
            tau_edges=arm.score.tau_edges,
            probe=None if step.divergence == "exact" else draws.signs(x0),
            rtol=step.tolerance,
            atol=step.tolerance,
            **options,
        )
        return -result.nats, result.nfe

    def _check_labels(self, arm: System, labels: Tensor) -> None:
        if arm.classes and not ((labels >= 0) & (labels < arm.classes)).all():
            raise ValueError(
                f"{self.step.name}: expected labels 0 to {arm.classes - 1}, the classes of the networks, "
                f"found {int(labels.min())} to {int(labels.max())} in {self.step.real.title}"
            )

    def _check_finite(self, nats: Mapping[str, Tensor], index_B: Tensor) -> None:
        for method, values in nats.items():
            finite_B = values.isfinite().all(dim=1)
            if not finite_B.all():
                bad = int(index_B[(~finite_B).to(index_B.device)][0])
                raise FloatingPointError(
                    f"expected a finite {method}, found NaN or infinity for sample {bad} of "
                    f"{self.step.real.step.name} in {self.step.name}; the score network or the discriminator "
                    "gives them"
                )


class _Draws(NamedTuple):
    """The random numbers of some images in a repeat."""

    step: LikelihoodFields
    index_B: Tensor
    repeat: int

    def continuous(self, images: Tensor) -> Tensor:
        """Returns images as points of a continuous density, float64 [B, C, H, W]: each value uniform within
        its pixel, in the bins by which samples are rounded to pixels."""
        if not self.step.dequantise:
            return images.double()
        return images.double() + (self._uniform(images.shape[1:], noise.DEQUANTISATION) - 0.5) / PIXELS

    def normals(self, x: Tensor, draw: int, number: int) -> Tensor:
        return noise.standard_normal(self.step.seed, self.index_B, x.shape[1:], step=number, draw=draw)

    def signs(self, x: Tensor) -> Tensor:
        """Returns plus or minus one, with the shape of x."""
        return torch.where(self._uniform(x.shape[1:], noise.PROBE) < 0.5, -1.0, 1.0).to(x.dtype)

    def uniforms(self) -> Tensor:
        """Returns [B, times] on (0, 1)."""
        return self._uniform((self.step.times,), noise.BOUND_LEVEL)

    def _uniform(self, shape: Sequence[int], draw: int) -> Tensor:
        return noise.uniform(self.step.seed, self.index_B, shape, step=self.repeat, draw=draw)


class _BoundNormals(Sequence[Tensor]):
    """The normals of a bound, one for each of its `times`, drawn on demand: that many copies of the images
    may not fit into memory."""

    def __init__(self, draws: _Draws, x: Tensor) -> None:
        self.draws, self.x = draws, x

    def __len__(self) -> int:
        return self.draws.step.times

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(number)
        own = self.draws.repeat * len(self) + number
        return self.draws.normals(self.x, noise.BOUND_NOISE, own)


def summary(step: LikelihoodFields, ends: Span, pieces: Mapping[str, Sequence[Values]]) -> dict[str, Any]:
    """Returns the content of the file, from the values of the images by arm."""
    first = next(iter(pieces))
    bits = {
        name: {method: np.concatenate([part[method] for part in parts]) for method in step.methods}
        for name, parts in pieces.items()
    }
    arms = dict[str, Any]()
    for name, parts in pieces.items():
        nfe = np.concatenate([part["nfe"] for part in parts]).mean(axis=0)
        arms[name] = {"nfe": nfe.tolist()} if "nll" in step.methods else {}
        for method, values in bits[name].items():
            arms[name] |= _mean(method, values)
            if name != first:
                arms[name] |= _mean(f"{method}_change", values - bits[first][method])
    return {
        "images": step.real.rows,
        "dimensions": step.real.step.shape.values,
        "levels": list(ends.levels),
        "highest": ends.highest,
        "arms": arms,
    }


def _mean(name: str, values_BL: np.ndarray) -> dict[str, list[float]]:
    """Returns the mean over images and its standard error, by noise level."""
    return {name: values_BL.mean(axis=0).tolist(), f"{name}_error": standard_error(values_BL).tolist()}

"""The exact numbers of `ComparePlane`: quadrature over the data's noisy density, and the probability-flow ODE
of the guided score."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dgflow.diffusion import gain, mixtures, noise
from dgflow.diffusion.discriminator_guidance import log_ratio_and_gradient
from dgflow.diffusion.flow_density import Field, flow_levels, flow_log_density, log_ratio_derivatives
from dgflow.diffusion.guidance_specs import DiscriminatorGuidance
from dgflow.diffusion.mixture_specs import GaussianMixture
from dgflow.diffusion.times import log_uniform_sigma, sigma_from_tau
from dgflow.metrics.energy_distance import energy_distance
from dgflow.metrics.rows import one_thread
from dgflow.networks.roles import GuideSpec
from dgflow.specs.bound import Bound

if TYPE_CHECKING:
    from torch import nn

LEVELS = 33  # of quantities by noise level; integrals over log sigma are trapezoidal sums over them
LEVEL_NODES, FLOW_NODES = 12, 8  # per coordinate and component
FLOW_STEPS = 20  # of fourth order; 16 give the log-density of an exact score within 1e-4
GAIN_POINTS, GAIN_LEVELS = 2_000, 8  # for the estimate of Gain: fresh points of the data, each at every level
GAIN_SEED = 20_230_724  # of these points and their noise, different from a recipe's seeds
SHOWN_LEVEL = 0.5  # noise level of the fields in the figure
GRID = 13  # arrows per side
SHOWN_SEED = 20_230_725  # of the data's points in the figure


@dataclass(frozen=True)
class Plane:
    """The two mixtures, and the quantities to compute about them.

    Args:
        span: the sampler's lowest and highest noise level.
        weights: of guidance, at which KL and Gain are computed.
        guides: the guidance of each guided arm, by the arm's name.
        shown: the number of points of each set in the figures.
    """

    data: GaussianMixture
    model: GaussianMixture
    span: tuple[float, float]
    weights: tuple[float, ...]
    guides: Mapping[str, DiscriminatorGuidance]
    shown: int


def common_values(plane: Plane) -> dict[str, Any]:
    """Returns the values that do not depend on a discriminator: KL of the wrong model, and the fields and
    points of the figures."""
    with one_thread():
        low, high = plane.span
        grid, half = grid_points(plane)
        sigma = _full(SHOWN_LEVEL, grid)
        model = mixtures.score(plane.model, grid, sigma)
        drawn = mixtures.points(plane.data, SHOWN_SEED, torch.arange(plane.shown))
        return {
            "sigma": [low, high],
            "kl_model": _kl(plane.data, plane.model, low),
            "half_width": half,
            "field": {
                "sigma": SHOWN_LEVEL,
                "at": grid.tolist(),
                "model": model.tolist(),
                "correction": (mixtures.score(plane.data, grid, sigma) - model).tolist(),
            },
            "points": {"data": drawn.tolist()},
        }


def arm_values(plane: Plane, inputs: Bound, name: str) -> tuple[float, list[list[float]]]:
    """Returns the energy distance of a slice's samples to the data, and the first of its samples."""
    points = inputs.rows(name, ["latent"])["latent"][:, :, 0, 0]
    data = plane.data
    shown = points[: plane.shown].astype(float).tolist()
    return energy_distance(points, data.means, data.stds, data.weights), shown


def guide_values(plane: Plane, inputs: Bound) -> Callable[[tuple[str, float | None]], dict[str, Any]]:
    """Returns a function of (name of a discriminator, weight): the KL of the flow that it guides at this
    weight, or, for None, its values by noise level."""
    networks: dict[str, nn.Module] = {}

    def values(item: tuple[str, float | None]) -> dict[str, Any]:
        name, weight = item
        if name not in networks:
            networks[name] = inputs.network(f"guides.{name}")
        guide = _Guide(plane, name, networks[name])
        with one_thread():
            return guide.by_level() if weight is None else {"kl": guide.flow_kl(weight)}

    return values


class _Guide:
    """One discriminator, its window, and the two mixtures."""

    def __init__(self, plane: Plane, name: str, network: nn.Module) -> None:
        term = plane.guides[name]
        spec = term.guides[0].step.architecture
        assert isinstance(spec, GuideSpec)
        self.network, self.time = network, spec.time_map()
        self.plane, self.data, self.model = plane, plane.data, plane.model
        first, last = term.window
        low, high = plane.span
        self.low = max(low, sigma_from_tau(first))
        self.high = min(high, math.inf if last == math.inf else sigma_from_tau(last))

    def flow_kl(self, weight: float) -> float:
        """Returns KL(data || samples of the guided flow) at the lowest noise level."""
        low, high = self.plane.span
        x, shares = mixtures.nodes(self.data, low, FLOW_NODES)
        levels = flow_levels(low, high, FLOW_STEPS, (self.low, self.high))
        found = flow_log_density(self._field(weight), x, levels)
        return float((shares * (mixtures.log_density(self.data, x, _full(low, x)) - found)).sum())

    def _field(self, weight: float) -> Field:
        def field(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
            level = _full(sigma, x)
            score, divergence = mixtures.score(self.model, x, level), mixtures.laplacian(self.model, x, level)
            if weight and self.low <= sigma <= self.high:
                _, gradient, laplacian = log_ratio_derivatives(self.network, x, sigma, time=self.time)
                score, divergence = score + weight * gradient, divergence + weight * laplacian
            return score, divergence

        return field

    def by_level(self) -> dict[str, Any]:
        """Returns errors by noise level under the data's noisy density, Gain, and the field of the figure."""
        levels = [self._level(sigma) for sigma in _levels(self.low, self.high)]
        logs = torch.tensor([level["sigma"] for level in levels], dtype=torch.float64).log()
        integrals = {
            name: float(
                torch.trapezoid(torch.tensor([level[name] for level in levels], dtype=torch.float64), logs)
            )
            for name in ("agreement", "energy", "correction", "error")
        }
        best = integrals["agreement"] / integrals["energy"] if integrals["energy"] > 0 else 0.0
        grid, _ = grid_points(self.plane)
        return integrals | {
            "levels": levels,
            "best_weight": best,
            "estimate": self._estimate(),
            "field": self._gradient(grid, SHOWN_LEVEL)[1].tolist(),
        }

    def _level(self, sigma: float) -> dict[str, float]:
        """Returns means over the data's density at this noise level.

        `agreement`, `energy`, `correction` and `error` are sigma^2 times the means of c * g, |g|^2, |c|^2 and
        |c - g|^2, with c the exact and g the learned correction: the contributions to Gain per unit of log
        sigma.
        """
        x, shares = mixtures.nodes(self.data, sigma, LEVEL_NODES)
        level = _full(sigma, x)
        exact = mixtures.log_ratio(self.data, self.model, x, level)
        correction = mixtures.score(self.data, x, level) - mixtures.score(self.model, x, level)
        found, gradient = self._gradient(x, sigma)
        difference = found - exact

        def mean(values: Tensor) -> float:
            return float((shares * values).sum())

        def centred(values: Tensor) -> Tensor:
            return values - mean(values)

        spread = math.sqrt(mean(centred(exact).square()) * mean(centred(found).square()))
        return {
            "sigma": sigma,
            "mean_error": mean(difference),
            "rms_error": math.sqrt(mean(difference.square())),
            "exact": mean(exact),
            "correlation": mean(centred(exact) * centred(found)) / spread if spread else 0.0,
            "agreement": sigma**2 * mean((correction * gradient).sum(1)),
            "energy": sigma**2 * mean(gradient.square().sum(1)),
            "correction": sigma**2 * mean(correction.square().sum(1)),
            "error": sigma**2 * mean((correction - gradient).square().sum(1)),
        }

    def _gradient(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """Returns the log-ratio [B] and its gradient [B, 2] at x [B, 2]."""
        value, gradient = log_ratio_and_gradient(
            self.network, x[:, :, None, None], _full(sigma, x), None, time=self.time
        )
        return value.double(), gradient.flatten(1)

    def _estimate(self) -> dict[str, Any]:
        """Estimates Gain only from samples of the data, as a training measures it on held-out images, at the
        comparison's weights."""
        edges = gain.level_edges(GAIN_LEVELS, self.low, self.high)
        index = torch.arange(GAIN_POINTS)
        images = mixtures.points(self.data, GAIN_SEED, index)[:, :, None, None]
        agreement, energy = [], []
        for number, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
            u = noise.uniform(GAIN_SEED, index, (), step=number, draw=noise.EVALUATION_LEVEL)
            normal = noise.standard_normal(
                GAIN_SEED, index, images.shape[1:], step=number, draw=noise.EVALUATION_NOISE
            )
            noisy = gain.denoised(self._denoiser, images, log_uniform_sigma(u, low, high), normal)
            moments = gain.moments(self.network, noisy, time=self.time)
            agreement.append(moments.agreement)
            energy.append(moments.energy)
        measured = gain.measured(gain.Moments(torch.stack(agreement, 1), torch.stack(energy, 1)), edges)
        at = [measured.total.at(weight) for weight in self.plane.weights]
        return {
            "points": GAIN_POINTS,
            "gain": [each.mean for each in at],
            "error": [each.error for each in at],
            "best_weight": list(measured.total.best_weight),
            "levels": [
                {"sigma": each.middle, "low": each.low, "high": each.high, "gain": list(each.curve.at(1.0))}
                for each in measured.levels
            ],
        }

    def _denoiser(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        del class_labels
        return mixtures.denoised(self.model, x.flatten(1), sigma).view(x.shape)


def grid_points(plane: Plane) -> tuple[Tensor, float]:
    """Returns the feet [GRID^2, 2] of the arrows, and half the width of the visible part of the plane: three
    standard deviations beyond every centre of the data and the model."""
    half = max(
        abs(coordinate) + 3 * std
        for mixture in (plane.data, plane.model)
        for mean, std in zip(mixture.means, mixture.stds, strict=True)
        for coordinate in mean
    )
    side = torch.linspace(-half, half, GRID + 2, dtype=torch.float64)[1:-1]
    return torch.cartesian_prod(side, side), half


def _kl(data: GaussianMixture, model: GaussianMixture, sigma: float) -> float:
    x, shares = mixtures.nodes(data, sigma, 4 * FLOW_NODES)
    return float((shares * mixtures.log_ratio(data, model, x, _full(sigma, x))).sum())


def _levels(low: float, high: float) -> list[float]:
    return torch.logspace(math.log10(low), math.log10(high), LEVELS, dtype=torch.float64).tolist()


def _full(sigma: float, like: Tensor) -> Tensor:
    return torch.full((len(like),), sigma, dtype=torch.float64)

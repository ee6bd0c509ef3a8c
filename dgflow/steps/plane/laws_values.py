"""The numbers of `CompareLaws`: samples against closed forms of a mixture."""

from __future__ import annotations

import statistics

import numpy as np
import torch

from dgflow.diffusion import mixtures
from dgflow.diffusion.mixture_specs import GaussianMixture
from dgflow.metrics.energy_distance import energy_distance
from dgflow.metrics.rows import one_thread
from dgflow.specs.bound import Bound
from dgflow.specs.step import Slice
from dgflow.steps.sampling import Sampling

TRUE_SEED = 20_230_726  # of the mixture's own points, different from a recipe's seeds
DRAWS = 16  # sets of the mixture's points, which give the error of a distance to a fifth
NODES = 32  # per coordinate and component, of the mean log-density


def points_of(inputs: Bound, name: str) -> np.ndarray:
    """Returns the points [N, 2] of a slice, float64."""
    return inputs.rows(name, ["latent"])["latent"].reshape(-1, 2).astype(np.float64)


def evaluations(part: Slice, inputs: Bound, name: str) -> float:
    """Returns the score network's evaluations per sample of a slice."""
    step = part.step
    if isinstance(step, Sampling) and step.selection is not None:
        return float(inputs.rows(name, ["score_evaluations"])["score_evaluations"].mean())
    return step.network_evaluations(part.rows) / part.rows


def law_values(data: GaussianMixture, points: np.ndarray) -> dict[str, float]:
    """Returns `energy`, `modes` and `log_density` of points [N, 2]."""
    with one_thread():
        x = torch.from_numpy(points)
        zero = torch.zeros(len(x), dtype=torch.float64)
        shares = mixtures.posterior(data, x, zero).mean(dim=0)
        off = (shares - torch.tensor(data.weights, dtype=torch.float64)).abs().sum() / 2
        nodes, weights = mixtures.nodes(data, 0.0, NODES)
        own = (weights * mixtures.log_density(data, nodes, torch.zeros(len(nodes)))).sum()
        return {
            "energy": energy_distance(points, data.means, data.stds, data.weights),
            "modes": float(off),
            "log_density": float(mixtures.log_density(data, x, zero).mean() - own),
        }


def true_error(data: GaussianMixture, count: int) -> float:
    """Returns the standard deviation of the energy distance of `count` points of the mixture itself."""
    found = []
    for number in range(DRAWS):
        index = torch.arange(number * count, (number + 1) * count)
        points = mixtures.points(data, TRUE_SEED, index).numpy()
        found.append(energy_distance(points, data.means, data.stds, data.weights))
    return statistics.stdev(found)

"""ComparePlane: samples in the plane and the discriminators that guided them, compared with exact values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from dgflow.diffusion.guidance_specs import DiscriminatorGuidance
from dgflow.diffusion.mixture_specs import GaussianMixture
from dgflow.networks.mixture.spec import MixtureScore
from dgflow.specs.figures import Figure, Metric
from dgflow.specs.step import Reference, Slice, Spread, Weights
from dgflow.steps.arm_values import over_seeds
from dgflow.steps.generate import Generate
from dgflow.steps.plane.plane_arms import SHOWN, PlaneArms
from dgflow.steps.plane.plane_figures import plane_figures
from dgflow.store.identity import canonical_json

if TYPE_CHECKING:
    from dgflow.specs.bound import Bound
    from dgflow.store.objects import ObjectStore


class ComparePlane(PlaneArms):
    """Arms of samples of a wrong model of `data`, with and without guidance, and their exact numbers.

    The samples are those of `Generate` with a `MixtureScore`; an arm has one slice per sampling seed, and is
    guided by one discriminator or by none. The file holds, with divergences in nats:

    - for each arm, KL(data || samples) and the energy distance of the drawn samples to the data. KL is that
      of the probability-flow ODE of the guided score, with the exact divergence of the field, at the
      sampler's lowest noise level, whatever noise the sampler adds;
    - for each discriminator, by noise level: its error as a log-ratio and as a correction of the score; Gain
      (theorem 2 of Kim et al. 2023) by quadrature, and as estimated from samples; KL and Gain at `weights`.
    """

    quantities: ClassVar[Mapping[str, Metric]] = {
        "kl": Metric("KL (nats)", 4),
        "energy": Metric("energy distance", 4),
        "gain": Metric("Gain (nats)", 4, lower_is_better=False),
    }

    weights: tuple[float, ...] = Field(default=(0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0), min_length=1)

    @model_validator(mode="after")
    def _comparable(self) -> ComparePlane:
        if len({(self._first(name).score.fingerprint, self._first(name).sampler) for name in self.arms}) > 1:
            raise ValueError("expected arms of one model and one sampler")
        return self

    def check_arm(self, name: str, arm: Sequence[Slice]) -> None:
        for part in arm:
            _check_samples(name, part)
        if len({_but_for_seed(part) for part in arm}) > 1:
            raise ValueError(f"arm {name!r}: expected slices that differ only in their seed")

    @property
    def title(self) -> str:
        return f"comparison in the plane of {', '.join(self.arms)}"

    def inputs(self) -> dict[str, Reference]:
        """The samples, and the discriminators that guided them."""
        guides: dict[str, Reference] = {
            f"guides.{name}": term.guides[0] for name, term in self.guides.items()
        }
        return super().inputs() | guides

    @property
    def model(self) -> GaussianMixture:
        """The wrong model."""
        network = self._first(next(iter(self.arms))).score.step.network
        assert isinstance(network, MixtureScore)
        return network.mixture

    @property
    def guides(self) -> dict[str, DiscriminatorGuidance]:
        """The guidance of the guided arms."""
        terms = {name: self._first(name).guidance for name in self.arms}
        return {
            name: term[0]
            for name, term in terms.items()
            if term and isinstance(term[0], DiscriminatorGuidance)
        }

    @property
    def span(self) -> tuple[float, float]:
        """The sampler's lowest and highest noise level."""
        sampler = self._first(next(iter(self.arms))).sampler
        low, high = (getattr(sampler, name, None) for name in ("sigma_min", "sigma_max"))
        return low or 0.002, high or 80.0

    def _first(self, name: str) -> Generate:
        step = self.arms[name][0].step
        assert isinstance(step, Generate)
        return step

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """Returns the numbers as JSON; each discriminator and weight is a separate piece of the work."""
        del store
        from dgflow.steps.plane.plane_values import Plane, arm_values, common_values, guide_values

        shown = min(SHOWN, *(part.rows for arm in self.arms.values() for part in arm))
        plane = Plane(self.data, self.model, self.span, self.weights, self.guides, shown)
        items = [(name, weight) for name in self.guides for weight in (None, *self._weights(name))]
        found: dict[tuple[str, float | None], Any] = {}
        spread(partial(guide_values, plane, inputs), items, found.__setitem__)
        content = common_values(plane)
        content["guides"] = {
            name: found[name, None]
            | {
                "weights": list(self.weights),
                "kl": [found[name, weight]["kl"] for weight in self.weights],
                "gain": [_gain(found[name, None], weight) for weight in self.weights],
            }
            for name in self.guides
        }
        content["arms"] = {}
        for name, arm in self.arms.items():
            values, energies, content["points"][name] = {"kl": content["kl_model"], "gain": 0.0}, [], []
            if name in self.guides:
                weight = effective_weight(self.guides[name])
                values = {"kl": found[name, weight]["kl"], "gain": _gain(found[name, None], weight)}
            for number in range(len(arm)):
                energy, points = arm_values(plane, inputs, f"arms.{name}.{number}")
                energies.append(energy)
                content["points"][name] += points if number == 0 else []
            content["arms"][name] = {key: over_seeds([value]) for key, value in values.items()} | {
                "energy": over_seeds(energies),
                "n": arm[0].rows,
                "seeds": [part.drawn.seed for part in arm],
            }
        return canonical_json(content).encode()

    def _weights(self, name: str) -> list[float]:
        return sorted({*self.weights, effective_weight(self.guides[name])})

    def compared(self, content: bytes) -> Mapping[str, Mapping[str, Any]]:
        return self._content(content)["arms"]

    def figures(self, content: bytes) -> Sequence[Figure]:
        return plane_figures(self._content(content), self.quantities)

    def _content(self, content: bytes) -> dict[str, Any]:
        """Returns the file, with arms and discriminators in the recipe's order; canonical JSON sorts them."""
        found = json.loads(content)
        order = {"arms": [*self.arms], "guides": [*self.guides], "points": ["data", *self.arms]}
        return found | {part: {name: found[part][name] for name in names} for part, names in order.items()}


def effective_weight(term: DiscriminatorGuidance) -> float:
    """Returns the weight of the flow whose field Heun's step averages: the mean of both orders' weights."""
    first, second = term.weight, term.second_order_weight
    assert isinstance(first, int | float) and isinstance(second, int | float)
    return (first + second) / 2


def _gain(values: Mapping[str, Any], weight: float) -> float:
    """Returns Gain at a weight: 2 w agreement - w^2 energy, each integrated over log sigma."""
    return weight * (2 * values["agreement"] - weight * values["energy"])


def _but_for_seed(part: Slice) -> str:
    assert isinstance(part.step, Generate)
    return part.step.model_copy(update={"seed": 0}).fingerprint


def _check_samples(name: str, part: Slice) -> None:
    """Raises ValueError for a slice of samples whose density is not known."""
    step = part.step
    if not isinstance(step, Generate) or not isinstance(network := step.score.step.network, MixtureScore):
        raise ValueError(
            f"arm {name!r}: expected samples of Generate with the score of a MixtureScore, found {part.title}"
        )
    if network.mixture.dimensions != 2:
        raise ValueError(
            f"arm {name!r}: expected samples in the plane, found {network.mixture.dimensions} coordinates"
        )
    if step.selection is not None:
        raise ValueError(
            f"arm {name!r}: expected samples without a selection, which follow the flow of their guided "
            f"score, found {part.title}; compare them with CompareLaws, which needs only the samples"
        )
    for term in step.guidance:
        if (
            len(step.guidance) > 1
            or not isinstance(term, DiscriminatorGuidance)
            or not isinstance(term.discriminator, Weights)
            or not isinstance(term.weight, int | float)
            or not isinstance(term.second_order_weight, int | float)
            or term.asks_gain
            or term.boost is not None
        ):
            raise ValueError(
                f"arm {name!r}: expected guidance by one discriminator with weights that are numbers and no "
                "boost, so that its flow is known"
            )

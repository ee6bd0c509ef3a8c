"""Merge: weights extrapolated from a network, away from a copy that was trained further on the network's own
samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import model_validator

from dgflow.networks.families import of_latents, score_network
from dgflow.specs.network import DataShape
from dgflow.specs.step import FileStep, NetworkStep, Spread, Weights
from dgflow.steps.training.train_score import TrainScore
from dgflow.store.objects import ObjectStore

if TYPE_CHECKING:
    from dgflow.specs.bound import Bound


class Merge(NetworkStep, FileStep):
    """The weights (1 + `weight`) `base` - `weight` `tuned` of a score network, tensor by tensor
    (`dgflow.weights.merging`).

    If `tuned` was trained further from `base`, only on samples of `base`, a weight above 0 is Neon's negative
    extrapolation (arXiv 2510.03597): training on its own samples moves a network away from the data, and the
    merged network lies on the other side. A weight of 0 gives `base` bit for bit, -1 gives `tuned`, and
    weights between give their averages. Sampling costs the same as with `base`.

    Samples of the merged network differ from those of `base`, so a discriminator that was trained against
    `base` does not know their log-ratio.

    `network` is taken from `base` and may not be given.
    """

    suffix: ClassVar[str] = ".safetensors"
    naming: ClassVar[Mapping[str, str]] = {"Weights": "name its weights: .weights()"}

    base: Weights
    tuned: Weights
    weight: float

    if TYPE_CHECKING:

        def __init__(self, *, base: Weights, tuned: Weights, weight: float) -> None: ...

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copies the step as `Step.model_copy` does; the network is that of the new base."""
        changed = dict(update or {})
        own = changed.get("base", self.base).step.architecture
        return super().model_copy(update={"network": own} | changed, deep=deep)

    @model_validator(mode="before")
    @classmethod
    def _network_of_base(cls, fields: Any) -> Any:
        base = fields.get("base") if isinstance(fields, Mapping) else None
        if not isinstance(base, Weights):
            return fields
        own = base.step.architecture
        if (given := fields.get("network", own)) != own:
            raise ValueError(f"network: expected none, as it is that of base, found {given!r}: leave it out")
        return {**fields, "network": own}

    @model_validator(mode="after")
    def _fits(self) -> Merge:
        own = score_network(self.base)
        if found := own.unlike(score_network(self.tuned)):
            raise ValueError(
                f"tuned: expected weights of the network of base, {type(own).__name__} with the same "
                f"fields, found {found}; train it from base, with TrainScore(start=base, "
                "network=base.step.network, ...)"
            )
        ours, theirs = _data(self.base), _data(self.tuned)
        if ours != theirs:
            raise ValueError(f"tuned: expected a network for the same data as base, {ours}, found {theirs}")
        if self.base.identity == self.tuned.identity:
            raise ValueError(
                f"tuned: expected weights other than base, found the same ({self.tuned.title}, "
                f"{self.tuned.which})"
            )
        return self

    @property
    def title(self) -> str:
        return f"{self.base.title} merged at {self.weight:g}"

    @property
    def shape(self) -> DataShape:
        return self.base.step.shape

    @property
    def classes(self) -> int:
        return self.base.step.classes

    @property
    def sees_latents(self) -> bool:
        return self.base.step.sees_latents

    def cautions(self) -> list[str]:
        """Returns a warning for weights that were trained separately."""
        if not isinstance(self.tuned.step, TrainScore) or _began_with(self.tuned.step, self.base):
            return []
        return [
            f"{self.title}: {self.tuned.title} was not trained from base, and a merge of separately "
            "trained networks is meaningless: train it with TrainScore(start=base, ...)"
        ]

    def weights(self) -> Weights:
        """The reference that other steps take."""
        return Weights(step=self, which="file")

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """Returns the merged weights as safetensors."""
        del spread, store
        from dgflow.weights.merging import merged
        from dgflow.weights.tensors import save_weights

        return save_weights(merged(inputs.tensors("base"), inputs.tensors("tuned"), self.weight))


def _began_with(step: TrainScore, base: Weights) -> bool:
    """True if a training started from `base`, or from a network that did."""
    start = step.start
    if start is None:
        return False
    return start.identity == base.identity or (
        isinstance(start.step, TrainScore) and _began_with(start.step, base)
    )


def _data(weights: Weights) -> str:
    shape, kind = weights.step.shape, "latents" if of_latents(weights) else "images"
    return (
        f"{kind} of {shape.channels} channels and {shape.image_size} pixels per side with "
        f"{weights.step.classes} classes"
    )

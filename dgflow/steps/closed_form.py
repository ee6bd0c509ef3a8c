"""ClosedForm: a network that needs no weights, usable where recipes take weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from dgflow.networks.mixture.spec import MixtureRatio, MixtureScore
from dgflow.specs.network import DataShape
from dgflow.specs.step import FileStep, NetworkStep, Spread, Weights
from dgflow.store.objects import ObjectStore

if TYPE_CHECKING:
    from dgflow.specs.bound import Bound


class ClosedForm(NetworkStep, FileStep):
    """A network in closed form. Its weights file is empty; its identity is the function that it computes."""

    suffix: ClassVar[str] = ".safetensors"
    naming: ClassVar = {"Weights": "name its weights: .weights()"}

    network: MixtureScore | MixtureRatio

    @property
    def title(self) -> str:
        return f"exact {self.network.title}"

    @property
    def shape(self) -> DataShape:
        return self.network.data_shape

    @property
    def file_bytes(self) -> int:
        return 64

    def weights(self) -> Weights:
        """The reference that other steps take."""
        return Weights(step=self, which="file")

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """Returns a safetensors file without tensors."""
        del inputs, spread, store
        from dgflow.weights.tensors import save_weights

        return save_weights({})

"""Read the facts that a root records about a trained network."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from dgflow.client.networks import Network
from dgflow.client.open_root import OpenRoot
from dgflow.networks.roles import DiscriminatorSpec, GuideSpec
from dgflow.publish.lineage import Base, bases
from dgflow.publish.tables import Table, tables
from dgflow.specs.bound import BoundMeasurements
from dgflow.specs.train_step import TrainStep
from dgflow.steps.training.train_discriminator import TrainDiscriminator


class NetworkFacts:
    """The facts about one epoch of a training. Raises ValueError for the weights of another step."""

    def __init__(self, root: OpenRoot, network: Network) -> None:
        if not isinstance(network.step, TrainStep):
            raise ValueError(
                f"expected a training or generated images, found {network.step.name}, whose weights were not "
                "trained here: name their source in recipes, or write them with `dgflow export`"
            )
        self.root, self.network = root, network
        self.step: TrainStep = network.step

    @property
    def title(self) -> str:
        return f"epoch {self.network.epoch} of {self.step.name}"

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The measurements of the epoch."""
        return self.network.bound.receipt.metrics

    @cached_property
    def bases(self) -> list[Base]:
        """The published networks from which the training was made."""
        return bases(self.step)

    @cached_property
    def epochs(self) -> dict[int, dict[str, Any]]:
        """The measurements of all epochs of the training, by number."""
        receipts = self.root.records.newest(self.step)
        return BoundMeasurements(self.network.bound.step_store, tuple(receipts.values())).metrics

    @cached_property
    def tables(self) -> list[Table]:
        """The tables that measure samples made or guided with these weights."""
        return tables(self.root, self.step, self.network.bound.digest)

    @property
    def conditioning(self) -> dict[str, Any]:
        """The form of the network's noise input, and the range of noise levels of its training."""
        network, conditioning = self.network.spec, {}
        if isinstance(network, GuideSpec):
            conditioning["time"] = network.time_name
        if isinstance(network, DiscriminatorSpec):
            fields = [name for name in ("process", "noise") if hasattr(network, name)]
            conditioning |= {name: getattr(network, name) for name in fields}
        if isinstance(self.step, TrainDiscriminator) and network.knows_noise:
            conditioning["sigma_range"] = [self.step.sigma_min, self.step.sigma_max]
        return conditioning

"""Write a trained network as a folder: weights, `config.json` for `official`, the records in `training.json`,
and a card.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from dgflow._version import __version__
from dgflow.client.networks import Network
from dgflow.client.open_root import OpenRoot
from dgflow.files.outputs import OpenNew
from dgflow.publish.lineage import Base, documents
from dgflow.publish.network_card import network_card
from dgflow.publish.network_facts import NetworkFacts
from dgflow.publish.pieces import write_json
from dgflow.specs.bound import BoundWeights
from dgflow.specs.train_step import TrainStep
from dgflow.steps.published_network import CONFIG, FORMAT, PublishedNetwork
from dgflow.store.identity import sha256_hex
from dgflow.weights.metadata import with_metadata


class NetworkFolder:
    """The publication of one epoch of a training.

    Raises ValueError for a step that is not a training.
    """

    hub_type = "model"
    marker = CONFIG  # the file that names the published step

    def __init__(self, root: OpenRoot, network: Network) -> None:
        self.facts = NetworkFacts(root, network)

    @property
    def title(self) -> str:
        return self.facts.title

    @property
    def bases(self) -> list[Base]:
        """The published networks from which the training was made."""
        return self.facts.bases

    @property
    def identity(self) -> dict[str, Any]:
        """The step, epoch and digest that identify this network."""
        receipt = self.facts.network.bound.receipt
        return {
            "step": self.facts.step.name,
            "fingerprint": self.facts.step.fingerprint,
            "epoch": receipt.number,
            "weights_sha256": receipt.rows_sha256,
        }

    @property
    def step(self) -> TrainStep:
        return self.facts.step

    def write(self, open_new: OpenNew, licence: str, name: str, *, made_up: bool = False) -> None:
        """Write the files.

        Args:
            licence: the hub's name of the licence.
            name: the name for `official`: `hf:user/name` if published there, otherwise the folder.
            made_up: state in the card that the weights are meaningless.
        """
        facts = self.facts
        published = PublishedNetwork.of(facts.step)
        digests = {}
        for part, weights in _parts(published, facts.network.bound):
            data = weights.step_store.read(weights.receipt)
            content = with_metadata(data, _metadata(part, weights))
            digests[part.file] = sha256_hex(content)
            with open_new(part.file) as opened:
                opened.write(content)
        config = {
            "dgflow_format": FORMAT,
            **published.model_dump(mode="json"),
            "told": facts.conditioning,
            **self.identity,
            "files": digests,
            "licence": licence,
            "dgflow": __version__,
        }
        write_json(open_new, CONFIG, config)
        write_json(open_new, "training.json", self._training())
        with open_new("README.md") as opened:
            opened.write(network_card(facts, licence, name, made_up=made_up).encode())

    def _training(self) -> dict[str, Any]:
        facts = self.facts
        return {
            "epoch": facts.network.epoch,
            "epochs": {str(number): metrics for number, metrics in facts.epochs.items()},
            "tables": [
                {
                    "step": each.step,
                    "with_it": sorted(each.with_it),
                    "arms": each.arms,
                    "reference": each.reference,
                }
                for each in facts.tables
            ],
            "made_with": [base._asdict() for base in facts.bases],
            "steps": documents(facts.step),
            "receipt": facts.network.bound.receipt.model_dump(mode="json", exclude={"key"}),
        }


def _parts(
    published: PublishedNetwork, bound: BoundWeights
) -> Iterator[tuple[PublishedNetwork, BoundWeights]]:
    """Yield the networks whose weights are in the folder: the published network, and those that it reads."""
    yield published, bound
    step: Any = bound.step
    for field, reference in step.architecture.references(""):
        part = published.reads[field]
        if isinstance(part, PublishedNetwork):
            path = next(path for path, each in step.reads.items() if each == reference)
            item = bound.inputs.items[path]
            assert isinstance(item, BoundWeights)
            yield from _parts(part, item)


def _metadata(published: PublishedNetwork, weights: BoundWeights) -> dict[str, str]:
    """The metadata of a weight file: the settings that `Pretrained` compares with those of a recipe, and the
    step that made the weights."""
    sizes = {name: str(getattr(published, name)) for name in ("image_size", "channels", "num_classes")}
    made = {"dgflow_step": weights.step_store.name}
    if weights.receipt.part.startswith("epochs/"):
        made["dgflow_epoch"] = str(weights.receipt.number)
    return {"format": "pt", "network": json.dumps(published.network), **sizes, **made}

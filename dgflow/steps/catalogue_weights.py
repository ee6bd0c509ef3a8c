"""References to the catalogue's networks, in the form that other steps take."""

from __future__ import annotations

from dgflow.networks.catalogue import CATALOGUE, catalogue_file
from dgflow.specs.step import Weights
from dgflow.steps.pretrained import Pretrained


def catalogue_weights(name: str, part: str | None = None) -> Weights:
    """Returns the weights of a network of the catalogue, by its name there.

    Args:
        part: the network in a file that has several, by default the first: "prior" or "vae" for LSGM.

    Raises:
        ValueError: the catalogue has no such file (the message lists the names), or the file has no such
            part, or no network that a step can take.
    """
    file = catalogue_file(name)
    if not file.network:
        raise ValueError(
            "expected a score network, a classifier, a discriminator or an autoencoder, found "
            f"{name}: no network"
        )
    if part is not None and part not in file.network:
        parts = {other: ", ".join(file.network) for other, file in CATALOGUE.items() if len(file.network) > 1}
        have = "; ".join(f"{other} has {names}" for other, names in parts.items())
        if name in parts:
            raise ValueError(f"expected a part of {name}, found {part!r}: {have}")
        raise ValueError(f"expected no part of {name}, which is one network, found {part!r}: {have}")
    found = next(iter(file.network.values())) if part is None else file.network[part]
    read = {field: catalogue_weights(other) for field, other in found.reads.items()}
    return Pretrained(
        source=name,
        network=found.network.model_copy(update=read),
        image_size=found.image_size,
        channels=found.channels,
        num_classes=found.num_classes,
        format=file.format,
    ).weights()

"""Published networks, in the form that other steps take: `official("edm-cifar10-32x32-uncond-vp")`,
`official("hf:user/name")`."""

from __future__ import annotations

from dgflow.networks.catalogue import CATALOGUE
from dgflow.specs.step import Weights
from dgflow.steps.catalogue_weights import catalogue_weights
from dgflow.steps.published_network import is_folder, published_weights


def official(name: str, part: str | None = None) -> Weights:
    """Returns the weights of a published score network, classifier, discriminator, autoencoder or feature
    network.

    Args:
        name: a name of the catalogue; or the folder of a network that `dgflow publish` wrote: a path,
            `s3://bucket/folder`, or `hf:user/name@revision` on the Hugging Face hub. Its `config.json`, which
            describes the network, is read here; from the hub through the hub's cache, without a request if
            the revision is a commit in the cache.
        part: the network in a catalogue file that has several, by default the first: "prior" or "vae" for
            LSGM.

    Raises:
        ValueError: the catalogue has no such file (the message lists the names), or the file has no such
            part, or no network that a step can take.
        StoreError: the folder cannot be reached.
    """
    if not isinstance(name, str) or not is_folder(name):
        try:
            return catalogue_weights(name, part)
        except ValueError as error:
            if name in CATALOGUE:
                raise
            raise ValueError(f"no folder is at {name}, and no network has this name: {error}") from None
    if part is not None:
        raise ValueError(f"expected no part of {name}, which is one network, found {part!r}: leave it out")
    return published_weights(name)

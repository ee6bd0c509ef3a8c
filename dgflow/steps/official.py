"""Published networks as what other steps take: `official("edm-cifar10-32x32-uncond-vp")`,
`official("hf:user/name")`."""

from __future__ import annotations

from dgflow.networks.catalogue import CATALOGUE
from dgflow.specs.step import Weights
from dgflow.steps.catalogue_weights import catalogue_weights
from dgflow.steps.published_network import is_folder, published_weights


def official(name: str, part: str | None = None) -> Weights:
    """The weights of a published score network, classifier, discriminator, autoencoder or feature network.

    Args:
        name: of the catalogue; or the folder of a network that `dgflow publish` wrote: a path,
            `s3://bucket/folder`, or `hf:user/name@revision` on the Hugging Face hub. Its `config.json`, which
            says what the network is, is read here; of the hub through the hub's cache, without a request
            where the revision is a commit that is in it.
        part: which network of a file of the catalogue that has several, by default the first: of LSGM's
            "prior" or "vae".

    Raises:
        ValueError: there is no such file, with the names there are; or it has no such part, or no network
            that a step can take.
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

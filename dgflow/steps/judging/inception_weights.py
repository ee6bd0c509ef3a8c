"""Inception's weights, named by the catalogue or by the path of a file."""

from __future__ import annotations

from dgflow.networks.catalogue import CATALOGUE
from dgflow.networks.inception.spec import SUFFIXES, InceptionV3
from dgflow.specs.step import Weights
from dgflow.steps.official import official
from dgflow.steps.pretrained import Pretrained

FORMATS = {**SUFFIXES, ".safetensors": "safetensors"}


def inception(source: str) -> Weights:
    """Returns the weights of that name in the catalogue, or those in a file, whose suffix gives its
    format."""
    if source in CATALOGUE:
        return official(source)
    suffix = next((suffix for suffix in FORMATS if source.lower().partition("@")[0].endswith(suffix)), None)
    if suffix is None:
        names = ", ".join(
            name
            for name, file in CATALOGUE.items()
            if any(isinstance(found.network, InceptionV3) for found in file.network.values())
        )
        raise ValueError(
            f"expected one of {names}, or a file that ends in {', '.join(FORMATS)}, found {source!r}"
        )
    return Pretrained(
        source=source, network=InceptionV3(), image_size=299, num_classes=1008, format=FORMATS[suffix]
    ).weights()

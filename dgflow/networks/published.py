"""Rows of the catalogue: published files and their networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from dgflow.specs.network import NetworkSpec
from dgflow.weights.entry import CatalogueFile

NONE_STATED = "none stated"
STATISTICS_FORMATS = ("npz", "statistics_pickle")
"""Formats of references."""


class Published(NamedTuple):
    """A network and its data shape: the fields of a `Pretrained`."""

    network: NetworkSpec
    image_size: int
    channels: int = 3
    num_classes: int = 0
    reads: Mapping[str, str] = {}
    """Fields of the network that hold other networks' weights, with the names of those networks in the
    catalogue.
    """


@dataclass(frozen=True, kw_only=True)
class PublishedFile(CatalogueFile):
    """A file of the catalogue.

    Attributes:
        format: one of the formats of its network, or of STATISTICS_FORMATS.
        network: the networks in the file, by part; the part of a single network is ""; {} for a reference.
        image_size: side of the network's images or latents in pixels.
        published_fid: published FID-50k of the samples without a discriminator; None if not published or not
            known.
        fid_note: conditions of that measurement; other distances.
    """

    format: str
    network: Mapping[str, Published] = field(default_factory=dict, hash=False)
    image_size: int
    published_fid: float | None = None
    fid_note: str = ""

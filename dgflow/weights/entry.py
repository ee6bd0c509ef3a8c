"""What is known about a published file, as plain data: importing this loads no torch, so that recipes can be
planned with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Format = Literal[
    "safetensors",
    "state_dict",
    "dit",
    "soft_truncation",
    "lsgm",
    "edm_pickle",
    "inception_pth",
    "inception_graph",
    "inception_torchscript",
    "inception_pickle",
    "npz",
]


@dataclass(frozen=True)
class CatalogueFile:
    """One published file.

    Attributes:
        name: what recipes call it; also its folder in the root.
        file_name: as published, or where that is not known, as it is to be called in the root.
        source: as in `dgflow.weights.sources`; None where no program can download it, so that a person has
            to, from `page`.
        format: the reader, as in `dgflow.networks.read`.
        network: class of `dgflow.networks` under "class", and its constructor's arguments; a network inside
            under "model". For a file of several networks, one such dict for each part. {} for what is no
            network.
        licence: of the weights, "none stated" where the publisher says nothing that is known here.
        image_size: side in pixels of the images, or of the latents, that the network works on.
        classes: number of class labels it is conditioned on, 0 for none.
        published_fid: FID-50k of the samples without a discriminator, as published; None where not published
            or not known.
        fid_note: how that was measured.
        sha256: where it is known. None of those here are: the first use locks what was found.
    """

    name: str
    file_name: str
    source: str | None
    format: Format
    network: dict[str, Any] = field(hash=False)
    licence: str
    page: str
    image_size: int
    classes: int
    published_fid: float | None = None
    fid_note: str = ""
    sha256: str | None = None

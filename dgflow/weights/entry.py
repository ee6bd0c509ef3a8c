"""A published file as plain data. Importing this module does not load torch, so recipes can be planned."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CatalogueFile:
    """One published file.

    Attributes: name: name of the file in recipes, and of its folder in the root. file_name: the published
        file name or, if unknown, the name in the root. source: a source as in `dgflow.weights.sources`; None
        if the file must be downloaded by hand from `page`. licence: licence of the weights; "none stated" if
        the publisher states none. sha256: the digest if known; otherwise the first use locks the digest.
    """

    name: str
    file_name: str
    source: str | None
    licence: str
    page: str
    sha256: str | None = None

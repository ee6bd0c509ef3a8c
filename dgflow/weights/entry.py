"""A published file as plain data: importing this loads no torch, so that recipes can be planned with it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CatalogueFile:
    """One published file.

    Attributes:
        name: of the file in recipes, and of its folder in the root.
        file_name: as published, or if that is unknown, its name in the root.
        source: as in `dgflow.weights.sources`; None if only a person can download it, from `page`.
        licence: of the weights; "none stated" if the publisher states none.
        sha256: if known; otherwise the first use locks it.
    """

    name: str
    file_name: str
    source: str | None
    licence: str
    page: str
    sha256: str | None = None

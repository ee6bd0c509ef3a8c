"""A published file as plain data: importing this loads no torch, so that recipes can be planned with it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CatalogueFile:
    """One published file.

    Attributes:
        name: what recipes call it; also its folder in the root.
        file_name: as published, or where that is not known, its name in the root.
        source: as in `dgflow.weights.sources`; None where no program can download it, so that a person has
            to, from `page`.
        licence: of the weights, "none stated" where the publisher says nothing that is known here.
        sha256: where it is known. None of those here are: the first use locks what was found.
    """

    name: str
    file_name: str
    source: str | None
    licence: str
    page: str
    sha256: str | None = None

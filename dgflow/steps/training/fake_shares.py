"""Fakes from several slices: the rows per batch from each, and their order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Discriminator, Tag

from dgflow.specs.step import Slice

OneOrSeveralSlices = Annotated[
    Annotated[Slice, Tag("one")] | Annotated[tuple[Slice, ...], Tag("several")],
    Discriminator(lambda value: "several" if isinstance(value, tuple | list) else "one"),
]
_ROUNDING = 1e-9


def checked_shares(parts: int, shares: Sequence[float] | None) -> tuple[float, ...]:
    """Returns the share of each of `parts` slices, with the sum 1; equal shares if none are given.

    Raises ValueError if the number of shares is wrong, or shares are not positive or do not add up to 1.
    """
    if not parts:
        raise ValueError("fake: expected one slice or more, found none")
    if shares is None:
        return (1 / parts,) * parts
    if len(shares) != parts:
        raise ValueError(
            f"fake_shares: expected one share for each of the {parts} slices of fake, found {len(shares)}"
        )
    if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(
            "fake_shares: expected shares above 0 that add up to 1, such as (0.5, 0.5), found "
            f"{tuple(shares)}"
        )
    return tuple(share / sum(shares) for share in shares)


def whole_rows(rows: int, shares: Sequence[float]) -> list[int]:
    """Divides `rows` by `shares` into integers with that sum, each within one of its share (Hamilton's
    method)."""
    exact = [rows * share for share in shares]
    counts = [math.floor(value + _ROUNDING) for value in exact]
    by_rest = sorted(range(len(shares)), key=lambda part: counts[part] - exact[part])
    for part in by_rest[: rows - sum(counts)]:
        counts[part] += 1
    return counts


def most_rows(available: Sequence[int], shares: Sequence[float]) -> int:
    """Returns the largest number of rows that `whole_rows` can divide without exceeding the rows of any
    slice."""
    return min(math.floor(rows / share + _ROUNDING) for rows, share in zip(available, shares, strict=True))


def interleaved(counts: Sequence[int]) -> np.ndarray:
    """Returns the part of each row, int64 [sum(counts)], with every part spread evenly over the whole."""
    place = np.concatenate([(np.arange(count) + 0.5) / max(1, count) for count in counts])
    return np.repeat(np.arange(len(counts)), counts)[np.argsort(place, kind="stable")]

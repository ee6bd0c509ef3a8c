"""The samples that guidance changed most: the results of the same noise and label with and without
guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dgflow.images.thumbnails import LARGEST, thumbnail
from dgflow.report.effects import base_of
from dgflow.steps.judging.evaluate import Evaluate
from dgflow.store.shards import Columns

MOST = 8  # maximum number of samples shown
SHOWN, LARGE = 96, 192  # maximum width of a magnified and of an enlarged image, in pixels
LEAST = 1 / 255  # minimum change of a sample shown: one level of 8 bits


def pairs(target: Evaluate, rows: Mapping[str, Columns]) -> dict[str, Any] | None:
    """Returns the samples that changed most, None if none changed visibly.

    Samples are ordered by the root mean square of the change of their pixels, averaged over all arms except
    the base. The keys are `columns` (index, label and change of each sample), `rows` (each arm's name and
    images), `among` (the number of samples compared), `width` and `large` (the width of an image, magnified
    and enlarged) and `shrunk` (the original width of shrunk images, else None).

    Args:
        rows: `index`, `label` and `image` of every arm's first samples, which started from the same noise.
    """
    base = base_of(target, target.arms)
    among = min(len(own["index"]) for own in rows.values())
    changes_N = np.mean(
        [_change(own, rows[base], among) for name, own in rows.items() if name != base], axis=0
    )
    chosen = [place for place in np.argsort(-changes_N, kind="stable")[:MOST] if changes_N[place] >= LEAST]
    if not chosen:
        return None
    start = target.arms[base][0].origin.start
    labels = rows[base]["label"]
    side = rows[base]["image"].shape[2]
    width = min(side, LARGEST)
    return {
        "among": f"{among:,}",
        "columns": [
            {
                "index": f"{start + place:,}",
                "label": int(labels[place]) if labels[place] >= 0 else None,
                "change": f"{changes_N[place]:.2f}",
            }
            for place in chosen
        ],
        "rows": [(name, [_uri(rows[name]["image"][place]) for place in chosen]) for name in rows],
        "width": width * max(1, SHOWN // width),
        "large": width * max(2, LARGE // width),
        "shrunk": side if side > LARGEST else None,
    }


def _change(own: Columns, base: Columns, among: int) -> np.ndarray:
    """Returns the root mean square change of each sample's pixels, where 1 is black to white."""
    difference = own["image"][:among].astype(np.float32) - base["image"][:among]
    return np.sqrt(np.mean(np.square(difference / 255), axis=(1, 2, 3)))


def _uri(image: np.ndarray) -> str:
    return f"data:image/png;base64,{thumbnail(image)}"

"""The sample grids of the page: the same first indices of every arm and of the reference, as PNG in data
URIs.

Pixels are as they were committed, magnified by a whole factor; large images are shrunk, and the caption says
so. Nothing is selected.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

from dgflow.engine.root import Root
from dgflow.report.own_receipts import own_receipts
from dgflow.report.summary import Summary
from dgflow.specs.step import SampleStep, Slice
from dgflow.steps.judging.evaluate import Evaluate
from dgflow.store.objects import ObjectStore
from dgflow.store.receipts import CorruptObject

GRID = 8  # images per side
SHOWN_WIDTH = 560  # pixels that a magnified grid may take
LARGE_WIDTH = 1240  # and an enlarged one, as wide as the page


def grids(summary: Summary, store: ObjectStore) -> dict[str, Any]:
    """The first images of every arm's first slice, and of the reference; `paired` where all arms share seed,
    indices and labels."""
    target = summary.target
    if not isinstance(target, Evaluate):
        return {"items": [], "paired": False}
    items, labels, begins = [], [], set()
    shown_parts = [(name, arm[0]) for name, arm in target.arms.items()]
    if isinstance(target.reference, Slice):  # what lies outside the root is not opened for a page
        shown_parts.append(("real (reference)", target.reference))
    for name, part in shown_parts:
        is_arm = part is not target.reference
        drawn, seed = part.origin, part.drawn.seed if is_arm else None
        item: dict[str, Any] = {"name": name, "caption": "", "uri": "", "problem": ""}
        try:
            shown = _first_images(part, summary, store)
        except CorruptObject as error:
            shown, item["problem"] = None, str(error)
        if shown is not None:
            images, own = shown
            item |= _png(images)
            item["caption"] = (
                f"{f'seed {seed}, ' if seed is not None else ''}indices {drawn.start} to "
                f"{drawn.start + len(images) - 1}{item['shrunk']}"
            )
            item["alt"] = f"Grid of the first {len(images)} images of {name}, {item['caption']}"
            if is_arm:
                labels.append(own.tolist())
        elif not item["problem"]:
            item["problem"] = "not made yet"
        if is_arm:
            begins.add((seed, drawn.start))
        items.append(item)
    paired = (
        len(labels) == len(target.arms) > 1 and len(begins) == 1 and all(own == labels[0] for own in labels)
    )
    return {"items": items, "paired": paired}


def _first_images(part: Slice, summary: Summary, store: ObjectStore) -> tuple[np.ndarray, np.ndarray] | None:
    """Images uint8 [n, H, W, C] and labels [n] of the slice's first rows, None while one is missing."""
    step = part.step
    assert isinstance(step, SampleStep)
    start, stop = part.start, min(part.stop, part.start + GRID * GRID)
    receipts = {receipt.number: receipt for receipt in own_receipts(summary.receipts, step)}
    numbers = step[start:stop].shards
    if any(number not in receipts for number in numbers):
        return None
    step_store = Root(store).step_store(step)
    shards = [step_store.read_shard(receipts[number], ["index", "image", "label"]) for number in numbers]
    columns = {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}
    chosen = (columns["index"] >= start) & (columns["index"] < stop)
    return columns["image"][chosen], columns["label"][chosen]


def _png(images: np.ndarray) -> dict[str, Any]:
    """The images [n, H, W, C] as one PNG in a data URI, with transparent gaps; width in pixels and the whole
    factor to show it at."""
    from PIL import Image

    from dgflow.images.thumbnails import LARGEST, shrunk

    count, side = len(images), max(images.shape[1:3])
    images = np.stack([shrunk(image) for image in images])
    height, width = images.shape[1:3]
    rows = -(-count // GRID)
    canvas = np.zeros((rows * (height + 1) - 1, GRID * (width + 1) - 1, 4), np.uint8)
    for number, image in enumerate(images):
        y, x = number // GRID * (height + 1), number % GRID * (width + 1)
        canvas[y : y + height, x : x + width, :3] = image
        canvas[y : y + height, x : x + width, 3] = 255
    out = io.BytesIO()
    Image.fromarray(canvas).save(out, "PNG", optimize=True)
    return {
        "uri": "data:image/png;base64," + base64.b64encode(out.getvalue()).decode(),
        "width": canvas.shape[1] * max(1, SHOWN_WIDTH // canvas.shape[1]),
        "large": canvas.shape[1] * max(2, LARGE_WIDTH // canvas.shape[1]),
        "shrunk": f", shrunk from {side} pixels" if side > LARGEST else "",
    }

"""The sample grids of the page: the same first indices of every arm and of the reference, as PNG in data
URIs; while the recipe is not complete, also the first samples of the steps under way.

Pixels are as they were committed, magnified by a whole factor; large images are shrunk, and the caption says
so. Nothing is selected.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from dgflow.engine.preview import ROWS, Preview
from dgflow.engine.root import Root
from dgflow.images.grids import GRID, grid_file
from dgflow.images.thumbnails import LARGEST, shrunk
from dgflow.report.layout import labelled
from dgflow.report.own_receipts import own_receipts
from dgflow.report.previews import under_way
from dgflow.report.seen import Seen, of_plan
from dgflow.report.summary import Summary
from dgflow.specs.step import SampleStep, Slice
from dgflow.steps.judging.evaluate import Evaluate
from dgflow.store.objects import ObjectStore
from dgflow.store.receipts import CorruptObject

SHOWN_WIDTH = 560  # pixels that a magnified grid may take
LARGE_WIDTH = 1240  # and an enlarged one, as wide as the page


def grids(summary: Summary, store: ObjectStore) -> dict[str, Any]:
    """The first images of every arm's first slice, and of the reference, `paired` where all arms share seed,
    indices and labels; and the first samples of other steps that are begun and not complete."""
    previews = {seen.name: preview for seen, preview in under_way(_seen(summary, store))}
    found = _arms(summary, store, previews)
    shown = found.pop("steps")
    found["items"] += [
        _early(label, previews[step_plan.step.name])
        for label, step_plan in labelled(summary.plans)
        if step_plan.step.name in previews.keys() - shown
    ]
    return found


def _seen(summary: Summary, store: ObjectStore) -> list[Seen]:
    return [of_plan(each, store) for each in summary.plans if not each.complete]


def _arms(summary: Summary, store: ObjectStore, previews: Mapping[str, Preview]) -> dict[str, Any]:
    """The items of an evaluation, the names of the `steps` that they show, and `paired`."""
    target = summary.target
    if not isinstance(target, Evaluate):
        return {"items": [], "paired": False, "steps": set()}
    items, labels, begins, steps = [], [], set(), set()
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
            side = max(images.shape[1:3])
            item |= _png(images)
            item["caption"] = (
                f"{f'seed {seed}, ' if seed is not None else ''}indices {drawn.start} to "
                f"{drawn.start + len(images) - 1}{f', shrunk from {side} pixels' if side > LARGEST else ''}"
            )
            item["alt"] = f"Grid of the first {len(images)} images of {name}, {item['caption']}"
            if is_arm:
                labels.append(own.tolist())
            steps.add(part.name)
        elif not item["problem"]:
            item["problem"] = "not made yet"
            if part.name in previews:
                item |= _early(name, previews[part.name])
                steps.add(part.name)
        if is_arm:
            begins.add((seed, drawn.start))
        items.append(item)
    paired = (
        len(labels) == len(target.arms) > 1 and len(begins) == 1 and all(own == labels[0] for own in labels)
    )
    return {"items": items, "paired": paired, "steps": steps}


def _first_images(part: Slice, summary: Summary, store: ObjectStore) -> tuple[np.ndarray, np.ndarray] | None:
    """Images uint8 [n, H, W, C] and labels [n] of the slice's first rows, None while one is missing."""
    step = part.step
    assert isinstance(step, SampleStep)
    start, stop = part.start, min(part.stop, part.start + ROWS)
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
    """The images [n, H, W, C] as one PNG in a data URI; its width in pixels, magnified by a whole factor, and
    enlarged."""
    width = GRID * (shrunk(images[0]).shape[1] + 1) - 1
    return {
        "uri": "data:image/png;base64," + base64.b64encode(grid_file(images)).decode(),
        "width": width * max(1, SHOWN_WIDTH // width),
        "large": width * max(2, LARGE_WIDTH // width),
    }


def _early(name: str, preview: Preview) -> dict[str, Any]:
    """The item of a step that is not complete."""
    alt = f"Grid of the first {len(preview.images)} samples of {name}, {preview.caption}"
    return {"name": name, "problem": "", "caption": preview.caption, "alt": alt, **_png(preview.images)}

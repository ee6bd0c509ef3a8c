"""The sample grids of the page, as PNG in data URIs: the same first indices of every arm and of the
reference. While the recipe is incomplete, the first samples of the steps in progress are shown too.

Pixels are shown as committed, magnified by an integer factor. Large images are shrunk, and their caption says
so. Samples are not selected, except the pairs of `pairs.py`.
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
from dgflow.report.pairs import pairs
from dgflow.report.previews import preview_of, under_way
from dgflow.report.seen import Seen, of_plan
from dgflow.report.strips import strips
from dgflow.report.summary import Summary
from dgflow.specs.step import SampleStep, Slice
from dgflow.steps.judging.evaluate import Evaluate
from dgflow.store.objects import ObjectStore
from dgflow.store.receipts import CorruptObject
from dgflow.store.shards import Columns

SHOWN_WIDTH = 560  # maximum width of a magnified grid, in pixels
LARGE_WIDTH = 1240  # maximum width of an enlarged grid, that of the page
BYTES = 1.8e6  # limit for the uncompressed pixels of all grids; beyond it, each grid has fewer rows


def grids(summary: Summary, store: ObjectStore) -> dict[str, Any]:
    """Returns the `items` of the page's grids, and whether they are `paired`, with their `pairs`.

    The items are the first images of every arm's first slice and of the reference, the first samples of steps
    in progress, and those of a recipe that ends with samples. Arms are paired if they share seed, indices and
    labels; `pairs` then are the samples that differ most between arms.
    """
    previews = {seen.name: preview for seen, preview in under_way(_seen(summary, store))}
    found = _arms(summary, store, previews)
    shown = found.pop("steps")
    last = summary.plans[-1]
    if last.complete and isinstance(last.step, SampleStep) and (own := preview_of(of_plan(last, store))):
        previews[last.step.name] = own
    found["items"] += [
        _early(label, previews[step_plan.step.name])
        for label, step_plan in labelled(summary.plans)
        if step_plan.step.name in previews.keys() - shown
    ]
    return found


def _seen(summary: Summary, store: ObjectStore) -> list[Seen]:
    return [of_plan(each, store) for each in summary.plans if not each.complete]


def _arms(summary: Summary, store: ObjectStore, previews: Mapping[str, Preview]) -> dict[str, Any]:
    """Returns `items`, `paired`, `pairs` and `strips` of an evaluation, and the names of the `steps` that the
    items show."""
    target = summary.target
    if not isinstance(target, Evaluate):
        return {"items": [], "paired": False, "pairs": None, "strips": None, "steps": set()}
    parts = {name: arm[0] for name, arm in target.arms.items()}
    if isinstance(target.reference, Slice):  # external images are not opened for a page
        parts |= {"real (reference)": target.reference}
    rows, problems = _read(parts, summary, store)
    count = _count(rows)
    items, steps = [], set()
    for name, part in parts.items():
        item: dict[str, Any] = {"name": name, "caption": "", "uri": "", "problem": problems.get(name, "")}
        seed = part.drawn.seed if name in target.arms else None
        if name in rows:
            item |= _shown(name, rows[name]["image"][:count], seed, part.origin.start)
        elif not item["problem"]:
            item["problem"] = "not made yet"
            if part.name in previews:
                item |= _early(name, previews[part.name])
        if item["uri"]:
            steps.add(part.name)
        items.append(item)
    own = {name: rows[name] for name in target.arms if name in rows}
    paired = len(own) == len(target.arms) > 1 and _share_noise(target, own)
    return {
        "items": items,
        "paired": paired,
        "pairs": pairs(target, own) if paired else None,
        "strips": strips(target, summary, store),
        "steps": steps,
    }


def _share_noise(target: Evaluate, rows: Mapping[str, Columns]) -> bool:
    """Returns True if the arms started from the same noise and labels."""
    begins = {(arm[0].drawn.seed, arm[0].origin.start) for arm in target.arms.values()}
    labels = [own["label"][:ROWS].tolist() for own in rows.values()]
    return len(begins) == 1 and all(own == labels[0] for own in labels)


def _read(
    parts: Mapping[str, Slice], summary: Summary, store: ObjectStore
) -> tuple[dict[str, Columns], dict[str, str]]:
    """Returns the first rows of each slice that has them, and the error messages of damaged slices."""
    rows, problems = {}, {}
    for name, part in parts.items():
        try:
            own = _first_rows(part, summary, store)
        except CorruptObject as error:
            problems[name] = str(error)
        else:
            rows |= {} if own is None else {name: own}
    return rows, problems


def _first_rows(part: Slice, summary: Summary, store: ObjectStore) -> Columns | None:
    """Returns `index`, `label` and `image` of the slice's rows in the shards that hold the slice's first
    `ROWS` rows. None while one of these shards is missing."""
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
    chosen = (columns["index"] >= start) & (columns["index"] < part.stop)
    return {name: values[chosen] for name, values in columns.items()}


def _count(rows: Mapping[str, Columns]) -> int:
    """Returns the number of images per grid: `ROWS`, or fewer if the pixels of all grids exceed `BYTES`."""
    pixels = sum(3 * shrunk(own["image"][0])[..., 0].size for own in rows.values())
    lines = ROWS // GRID
    while lines > 1 and lines * GRID * pixels > BYTES:
        lines //= 2
    return lines * GRID


def _shown(name: str, images: np.ndarray, seed: int | None, start: int) -> dict[str, Any]:
    side = max(images.shape[1:3])
    caption = f"{f'seed {seed}, ' if seed is not None else ''}indices {start} to {start + len(images) - 1}"
    caption += f", shrunk from {side} pixels" if side > LARGEST else ""
    alt = f"Grid of the first {len(images)} images of {name}, {caption}"
    return {"caption": caption, "alt": alt, **_png(images)}


def _png(images: np.ndarray) -> dict[str, Any]:
    """Returns the images [n, H, W, C] as one PNG in a data URI (`uri`), its width in pixels magnified by an
    integer factor (`width`), and its width when enlarged (`large`)."""
    width = GRID * (shrunk(images[0]).shape[1] + 1) - 1
    return {
        "uri": "data:image/png;base64," + base64.b64encode(grid_file(images)).decode(),
        "width": width * max(1, SHOWN_WIDTH // width),
        "large": width * max(2, LARGE_WIDTH // width),
    }


def _early(name: str, preview: Preview) -> dict[str, Any]:
    """Returns the item of an incomplete step."""
    alt = f"Grid of the first {len(preview.images)} samples of {name}, {preview.caption}"
    return {"name": name, "problem": "", "caption": preview.caption, "alt": alt, **_png(preview.images)}

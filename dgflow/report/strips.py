"""One sample along its path in several arms: the network's estimates of the clean image, from noise to the
sample, in a strip per arm."""

from __future__ import annotations

from typing import Any

from dgflow.engine.root import Root
from dgflow.images.thumbnails import LARGEST, thumbnail
from dgflow.report.effects import base_of
from dgflow.report.pairs import LARGE, SHOWN
from dgflow.report.summary import Summary
from dgflow.specs.trajectory import Trajectory, left
from dgflow.steps.judging.evaluate import Evaluate
from dgflow.store.objects import ObjectStore

ARMS = 3  # strips at most


def strips(target: Evaluate, summary: Summary, store: ObjectStore) -> dict[str, Any] | None:
    """Returns the `rows` (arm and frames) of one sample: that of the arm without guidance, and the same one,
    by seed and index, of the first other arms. None if no worker has left its path."""
    found = {name: path for name in target.arms if (path := _path(target, name, summary, store))}
    if not found:
        return None
    base = base_of(target, target.arms)
    order = sorted(found, key=lambda name: name != base)
    chosen = _sample(target, order[0], found)
    names = [name for name in order if _sample(target, name, found) == chosen][:ARMS]
    side = found[names[0]].frames.shape[2]
    return {
        "seed": chosen[0],
        "index": f"{chosen[1]:,}",
        "length": max(len(found[name].frames) for name in names),
        "rows": [(name, _frames(found[name])) for name in names],
        "width": side * max(1, SHOWN // side),
        "large": side * max(2, LARGE // side),
        "shrunk": target.arms[base][0].step.shape.image_size > LARGEST,
    }


def _path(target: Evaluate, name: str, summary: Summary, store: ObjectStore) -> Trajectory | None:
    step = target.arms[name][0].step
    bounds = (each.bound for each in summary.plans if each.step.name == step.name)
    bound = next((bound for bound in bounds if bound is not None), None)
    return None if bound is None else left(Root(store).step_store(step), bound.digests)


def _sample(target: Evaluate, name: str, found: dict[str, Trajectory]) -> tuple[int | None, int]:
    """Returns the seed and the index of the sample of an arm."""
    return target.arms[name][0].drawn.seed, found[name].index


def _frames(path: Trajectory) -> list[dict[str, str]]:
    levels = [f"{level:.3g}" for level in path.levels]
    words = [*(f"estimate at noise level {level}" for level in levels), "the sample"]
    return [
        {"uri": f"data:image/png;base64,{thumbnail(image)}", "below": below, "alt": alt}
        for image, below, alt in zip(path.frames, [*levels, "sample"], words, strict=True)
    ]

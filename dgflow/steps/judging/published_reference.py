"""Published references by name: their statistics as a step, and the protocol for numbers measured against
them.

Sources and licences are in `dgflow.networks.catalogue`; neither building nor planning reads a file.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from dgflow.metrics.protocols import FrontEndName
from dgflow.networks.catalogue import CATALOGUE, catalogue_file
from dgflow.networks.inception.spec import WIDTHS
from dgflow.networks.published import STATISTICS_FORMATS
from dgflow.specs.mistakes import did_you_mean
from dgflow.specs.spec import SmokeRun
from dgflow.specs.step import Result, ResultStep, Slice, Spread, Step, Weights
from dgflow.steps.judging.inception_weights import inception as inception_weights
from dgflow.steps.judging.statistics import moments_bytes
from dgflow.steps.sources.import_images import ImportImages
from dgflow.weights.entry import CatalogueFile
from dgflow.weights.sources import recordable

if TYPE_CHECKING:
    from dgflow.images.statistics import Statistics
    from dgflow.specs.bound import Bound
    from dgflow.store.objects import ObjectStore
    from dgflow.weights.weight_file import File


class PublishedStatistics(ResultStep):
    """`mu`, `sigma` and, if the file has them, `mu_s` and `sigma_s` of a published reference: an `.npz` of
    float64. Images in the file are not stored. Of EDM2's pickles, FID's moments are taken.

    Args:
        source: the name of a file in the catalogue, or a source as for `Pretrained`.
        image_size: side in pixels of the images that were measured; arms of another size are refused.
        spatial: the file has `mu_s` and `sigma_s`, for sFID.
        sha256: checked if given; otherwise the file's digest is locked in the root at first use.
        made_up: random numbers, written for a smoke run; results against them are meaningless.
    """

    suffix: ClassVar[str] = ".npz"

    source: str
    image_size: int = Field(gt=0)
    spatial: bool = False
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    made_up: bool = False

    @field_validator("source")
    @classmethod
    def _absolute(cls, source: str) -> str:
        """Makes a path absolute, so that it names the same file from every folder; refuses URLs that may
        contain a secret."""
        if source in CATALOGUE:
            if CATALOGUE[source].format not in STATISTICS_FORMATS:
                raise ValueError(
                    f"expected published statistics ({_names()}), found {source}, which holds a network"
                )
            return source
        parsed = recordable(source)
        if not parsed.file_name.lower().endswith((".npz", ".pkl")):
            raise ValueError(
                f"expected an .npz or .pkl with mu and sigma, or one of {_names()}, found {source!r}"
            )
        return parsed.text

    @property
    def title(self) -> str:
        return f"statistics of {self.source.rsplit('/', 1)[-1]}"

    def toy(self, smoke: SmokeRun) -> Step:
        return smoke.statistics(self)

    @property
    def is_made_up(self) -> bool:
        return self.made_up

    @property
    def file_bytes(self) -> int:
        return moments_bytes(list(WIDTHS.values())[: 1 + self.spatial])

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """Fetches and checks the file.

        Raises:
            ValueError: its arrays are missing or cannot be moments, or its digest is not the locked one.
        """
        del inputs, spread
        from dgflow.weights.fetch import read_fetched

        moments = read_fetched(store, self._file, self._moments, self.sha256)
        arrays = {name: getattr(moments, name) for name in ("mu", "sigma", "mu_s", "sigma_s")}
        content = io.BytesIO()
        np.savez(content, **{name: values for name, values in arrays.items() if values is not None})  # type: ignore[arg-type]
        return content.getvalue()

    def check_unchanged(self, read: Callable[[], bytes], store: ObjectStore) -> None:
        """Compares the source with the file that was read, as far as that needs no download.

        Raises ValueError if the source has different statistics now.
        """
        del read
        from dgflow.weights.fetch import check_unchanged

        check_unchanged(store, self._file, self.name)

    @property
    def _file(self) -> CatalogueFile | str:
        return CATALOGUE.get(self.source, self.source)

    def _moments(self, file: File) -> Statistics:
        if not isinstance(file, bytes):
            return self._moments_at(os.fspath(file))
        with tempfile.TemporaryDirectory() as folder:
            name = self._file if isinstance(self._file, str) else self._file.file_name
            path = Path(folder, f"statistics{Path(name).suffix.lower()}")
            path.write_bytes(file)
            try:
                return self._moments_at(str(path))
            except ValueError as error:
                raise ValueError(str(error).replace(str(path), self.source)) from error

    def _moments_at(self, path: str) -> Statistics:
        """Returns the moments in the file. Raises ValueError if some are missing."""
        from dgflow.images.statistics import read_statistics

        moments = read_statistics(path)
        if moments is None or (self.spatial and moments.mu_s is None):
            names = "mu and sigma" + ", mu_s and sigma_s" * self.spatial
            raise ValueError(f"expected {names} in {self.source}, found none.")
        return moments


@dataclass(frozen=True)
class PublishedReference:
    """A reference that published numbers were measured against, and the protocol: the `against` of an
    `Evaluate`.

    Args:
        images: the reference's images, if precision and recall are measured against them.
    """

    protocol: FrontEndName
    features: Weights
    statistics: Result
    images: Slice | None = None

    def fields(self) -> dict[str, Any]:
        """The fields of an `Evaluate` against this reference."""
        measured = {"protocol": self.protocol, "features": self.features, "statistics": self.statistics}
        return measured if self.images is None else measured | {"reference": self.images}


# By name: protocol, Inception's file (that of the protocol's own evaluator, or another one with the same
# weights), and the number of images that the reference holds beside its statistics.
_REFERENCES: dict[str, tuple[FrontEndName, str, int]] = {
    "adm-reference-imagenet-256": ("adm", "inception-2015-12-05-openai", 10_000),
    "fid-cifar10-32x32": ("edm", "inception-2015-12-05", 0),
    "fid-ffhq-64x64": ("edm", "inception-2015-12-05", 0),
    "fid-imagenet-64": ("edm", "inception-2015-12-05", 0),
    "fid-imagenet-512": ("edm", "inception-2015-12-05", 0),
}


def reference(name: str, *, inception: str | None = None) -> PublishedReference:
    """Returns a published reference by name: `Evaluate(arms=..., against=reference(name))`.

    Args:
        name: adm-reference-imagenet-256, fid-cifar10-32x32, fid-ffhq-64x64, fid-imagenet-64 or
            fid-imagenet-512.
        inception: another file of the same network, by its name in the catalogue or its path; all are
            TensorFlow's weights of 2015-12-05.

    Raises:
        ValueError: no reference has that name; the message lists those that exist.
    """
    if name not in _REFERENCES:
        near = did_you_mean(name, _REFERENCES)
        raise ValueError(f"expected a published reference, one of {_names()}, found {name!r}{near}")
    protocol, network, number = _REFERENCES[name]
    side = catalogue_file(name).image_size
    statistics = PublishedStatistics(source=name, image_size=side, spatial=protocol == "adm")
    images = None
    if number:
        step = ImportImages(source=name, num_images=number, num_classes=0, image_size=side, shard_size=250)
        images = step.all()
    features = inception_weights(network if inception is None else inception)
    return PublishedReference(protocol, features, statistics.result(), images)


def _names() -> str:
    return ", ".join(_REFERENCES)

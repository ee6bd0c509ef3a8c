"""Published references: statistics as a step, and what `Evaluate` takes to compare with published numbers, by
name.

Promises that building and planning touch no file, and that what is fetched is checked before anything else is
made. Where the files lie and under which licence is `dgflow.weights.catalogue`'s.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from pydantic import Field, field_validator

from dgflow.metrics.protocols import FrontEndName
from dgflow.specs.step import ResultStep, Spread
from dgflow.steps.official import official
from dgflow.steps.sources.import_images import ImportImages
from dgflow.weights.catalogue import CATALOGUE, catalogue_file
from dgflow.weights.sources import recordable

if TYPE_CHECKING:
    from dgflow.specs.bound import Bound
    from dgflow.store.objects import ObjectStore


class PublishedStatistics(ResultStep):
    """`mu`, `sigma` and, where the file has them, `mu_s` and `sigma_s` of a reference that was measured
    elsewhere: an `.npz` of float64.

    `source` is the name of a file of the catalogue, or a place as for `Pretrained`. Its sha256 is checked
    where `sha256` says it, and locked in the root at first use otherwise. Images that such a file holds
    beside them are not kept.

    Args:
        image_size: side in pixels of the images that were measured; arms of another are refused.
        spatial: whether it has `mu_s` and `sigma_s`, for sFID.
        made_up: random numbers, written for a smoke run; nothing that is measured against them compares with
            anything.
    """

    suffix: ClassVar[str] = ".npz"

    source: str
    image_size: int = Field(gt=0)
    spatial: bool = False
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    made_up: bool = False

    @field_validator("source")
    @classmethod
    def _a_place(cls, source: str) -> str:
        """The same file from every folder and on every host: a path becomes absolute.

        What can hold a secret stays out of records.
        """
        if source in CATALOGUE:
            if CATALOGUE[source].format != "npz":
                raise ValueError(
                    f"expected published statistics ({_names()}), found {source}, which holds a network"
                )
            return source
        parsed = recordable(source)
        if not parsed.file_name.lower().endswith(".npz"):
            raise ValueError(f"expected an .npz with mu and sigma, or one of {_names()}, found {source!r}")
        return parsed.text

    @property
    def title(self) -> str:
        return f"statistics of {self.source.rsplit('/', 1)[-1]}"

    @property
    def is_made_up(self) -> bool:
        return self.made_up

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """The file, fetched and checked.

        Raises:
            ValueError: it holds no such arrays, or ones that cannot be moments; or it is not the one that was
                locked.
        """
        del inputs, spread
        from dgflow.images.statistics import read_statistics
        from dgflow.weights.fetch import fetch

        file = fetch(store, CATALOGUE.get(self.source, self.source), expected_sha256=self.sha256)
        try:
            found = read_statistics(str(file.path))
            if found is None or (self.spatial and found.mu_s is None):
                raise ValueError(
                    f"expected mu and sigma{', mu_s and sigma_s' * self.spatial} in {self.source}, found "
                    "none."
                )
        except ValueError as error:
            raise ValueError(
                f"{error} If the file was bad when it was first used, delete {file.lock_key} in "
                f"{store.url} too."
            ) from error
        arrays = {"mu": found.mu, "sigma": found.sigma, "mu_s": found.mu_s, "sigma_s": found.sigma_s}
        written = io.BytesIO()
        np.savez(written, **{name: values for name, values in arrays.items() if values is not None})  # type: ignore[arg-type]
        return written.getvalue()


class _Reference(NamedTuple):
    """How numbers against a published file are measured."""

    protocol: FrontEndName
    inception: str  # the file that the protocol's own evaluator uses, or one of the same weights
    images: int = 0  # that the file holds beside the statistics, for precision and recall


_REFERENCES = {
    "adm-reference-imagenet-256": _Reference("adm", "inception-2015-12-05-openai", images=10_000),
    "fid-cifar10-32x32": _Reference("edm", "inception-2015-12-05"),
    "fid-ffhq-64x64": _Reference("edm", "inception-2015-12-05"),
}


def reference(name: str, *, inception: str | None = None) -> dict[str, Any]:
    """What `Evaluate` takes to be compared with numbers against a published reference: `Evaluate(arms=...,
    **reference(name))`.

    Gives its protocol, features and statistics, and the reference's images where precision and recall are of
    them.

    Args:
        name: adm-reference-imagenet-256, fid-cifar10-32x32 or fid-ffhq-64x64.
        inception: another file of the same network, by its name in the catalogue or its path; all are
            TensorFlow's weights of 2015-12-05.

    Raises:
        ValueError: there is no such reference, with those there are.
    """
    from dgflow.steps.judging.comparison import inception as weights

    if name not in _REFERENCES:
        raise ValueError(f"expected a published reference, one of {_names()}, found {name!r}")
    how, side = _REFERENCES[name], catalogue_file(name).image_size
    statistics = PublishedStatistics(source=name, image_size=side, spatial=how.protocol == "adm")
    found = {
        "protocol": how.protocol,
        "features": official(how.inception) if inception is None else weights(inception),
        "statistics": statistics.result(),
    }
    if how.images:
        images = ImportImages(
            source=name, num_images=how.images, num_classes=0, image_size=side, shard_size=250
        )
        found["reference"] = images.all()
    return found


def _names() -> str:
    return ", ".join(_REFERENCES)

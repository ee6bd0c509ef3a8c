"""Images and statistics from outside the root, as inputs of steps: identified by their content, not their
path."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, PrivateAttr

from dgflow.images.labels import no_classes
from dgflow.images.sources import Images, open_images
from dgflow.images.statistics import Statistics, read_statistics
from dgflow.specs.spec import LATER, PLACEMENT, SmokeRun, Spec
from dgflow.specs.step import Drawn

_log = logging.getLogger(__name__)


class ImageSet(Spec):
    """All images of `source`: an `.npz`, a folder, a zip, tars, Parquet files, CIFAR's archive or a step of a
    run, as in `dgflow.images`. Of several splits `train` is read, or the one that `SOURCE@SPLIT` names.

    The images are read at their source and not copied into the root. `at` lists and reads all of them once; a
    worker receives the listing and the digest of each row with the step, opens only the files of its rows,
    and compares their digests. `seed`, `seeding` and `start` (the index of the first image) are known if a
    step of dgflow made the images. With `drop_alpha` transparent pictures are accepted without their alpha
    channel.
    """

    source: Annotated[str, PLACEMENT]
    digest: str
    rows: int = Field(gt=0)
    seed: Annotated[int | None, PLACEMENT] = None
    seeding: Annotated[Literal["counter", "edm"] | None, PLACEMENT] = None
    start: Annotated[int | None, PLACEMENT] = None
    drop_alpha: Annotated[bool, LATER] = False
    _ignore_labels: bool = PrivateAttr(False)  # the digest covers the labels
    _notes: tuple[str, ...] = PrivateAttr(())
    _images: Images | None = PrivateAttr(None)  # as `at` read them

    @classmethod
    def at(
        cls, source: str, *, ignore_labels: bool = False, drop_alpha: bool = False, gaps: bool = False
    ) -> Self:
        """Opens `source`, reads all of it once for its digest and checks every picture's header. With
        `ignore_labels` the images have no labels.

        With `gaps` numbered images with missing numbers are accepted, with a note: a reference may be a part
        of a larger set, samples must be complete.

        Raises ValueError and FileNotFoundError as `open_images` does.
        """
        images = _opened(source, ignore_labels, drop_alpha)
        if images.gap and not gaps:
            raise ValueError(
                f"{images.gap}; as a reference they are taken as they are (in Python "
                "ImageSet.at(..., gaps=True))"
            )
        images.look()
        notes = tuple(filter(None, (*images.notes, no_classes(images.labels))))
        for note in notes:
            _log.warning("%s: %s", source, note)
        spec = cls(
            source=source,
            digest=images.digest,
            rows=images.rows,
            seed=images.seed,
            seeding=images.seeding,
            start=images.first_index,
            drop_alpha=drop_alpha,
        )
        spec._ignore_labels, spec._notes, spec._images = ignore_labels, notes, images
        return spec

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the images, for people; () without `at`."""
        return self._notes

    @property
    def title(self) -> str:
        return self.source.rstrip("/").rpartition("/")[2]

    @property
    def drawn(self) -> Drawn:
        if self.start is None:
            return Drawn()
        return Drawn(self.seed, self.seeding, self.start, self.start + self.rows)

    def in_smoke(self, smoke: SmokeRun, factor: int) -> Self:
        raise ValueError(
            f"expected steps of this run, found the image set {self.title}: a smoke run makes its own images"
        )

    def open(self) -> Images:
        """Returns the reader of the images. Without `at`, as for a step that a root describes, all images are
        read once.

        Raises ValueError if the source now holds different images: here without `at`, otherwise by the
        reader, which names the first image that differs.
        """
        images = self._images or _opened(self.source, self._ignore_labels, self.drop_alpha)
        if images.digest != self.digest:
            raise ValueError(
                f"{self.title}: expected images with digest {self.digest}, found {images.digest}; the "
                "source has changed: run again with its current images"
            )
        return images


class StatisticsFile(Spec):
    """Mean and covariance of features, `mu` and `sigma`, and for sFID `mu_s` and `sigma_s`, in the `.npz` at
    `source`."""

    source: Annotated[str, PLACEMENT]
    digest: str
    _widths: tuple[int, ...] = PrivateAttr(())

    @classmethod
    def at(cls, source: str) -> Self:
        """Opens `source`. Raises ValueError and FileNotFoundError as `read_statistics` does."""
        statistics = _statistics(source)
        spec = cls(source=source, digest=statistics.digest)
        spec._widths = tuple(len(mean) for mean in (statistics.mu, statistics.mu_s) if mean is not None)
        return spec

    @property
    def drawn(self) -> Drawn:
        return Drawn()

    @property
    def widths(self) -> tuple[int, ...]:
        """The number of features of `mu`, and of `mu_s` if it is there, so that an unsuitable file is refused
        before work begins. () without `at`: the file is checked when it is read."""
        return self._widths

    @property
    def title(self) -> str:
        return self.source.rpartition("/")[2]

    def read(self) -> dict[str, np.ndarray]:
        """Returns the arrays by name, float64. Raises ValueError if the file now holds different arrays."""
        statistics = _statistics(self.source)
        if statistics.digest != self.digest:
            raise ValueError(
                f"{self.title}: expected statistics with digest {self.digest}, found {statistics.digest}; "
                "the file has changed: run again with its current statistics"
            )
        arrays = {name: getattr(statistics, name) for name in ("mu", "sigma", "mu_s", "sigma_s")}
        return {name: values for name, values in arrays.items() if values is not None}


@lru_cache(maxsize=8)
def _opened(source: str, ignore_labels: bool, drop_alpha: bool) -> Images:
    """Opens the source once per process, since hashing 10 GB takes time."""
    return open_images(source, ignore_labels=ignore_labels, drop_alpha=drop_alpha, gaps=True)


@lru_cache(maxsize=2)
def _statistics(source: str) -> Statistics:
    statistics = read_statistics(source)
    if statistics is None:
        raise ValueError(f"expected an .npz with mu and sigma at {source}, found none; correct the path")
    return statistics

"""Images and statistics from outside the root, as what steps read: named by their content, and not by where
they lie."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, PrivateAttr

from dgflow.specs.spec import PLACEMENT, Spec

if TYPE_CHECKING:
    import numpy as np

    from dgflow.images.sources import Images
    from dgflow.images.statistics import Statistics


class ImageSet(Spec):
    """All images of `source`: an `.npz`, a folder, a zip, Parquet files or a step of a run, as in
    `dgflow.images`.

    They are read where they lie and not copied into the root. `seed`, `seeding` and `start` (the index of the
    first) are known where a step of dgflow made them.
    """

    source: Annotated[str, PLACEMENT]
    digest: str
    rows: int = Field(gt=0)
    seed: Annotated[int | None, PLACEMENT] = None
    seeding: Annotated[Literal["counter", "edm"] | None, PLACEMENT] = None
    start: Annotated[int | None, PLACEMENT] = None

    @classmethod
    def at(cls, source: str) -> Self:
        """Look at `source`, which reads all of it once for its digest.

        Raises ValueError and FileNotFoundError as `open_images`.
        """
        found = _opened(source)
        return cls(
            source=source,
            digest=found.digest,
            rows=found.rows,
            seed=found.seed,
            seeding=found.seeding,
            start=found.first_index,
        )

    @property
    def title(self) -> str:
        return self.source.rstrip("/").rpartition("/")[2]

    def open(self) -> Images:
        """Its reader. Raises ValueError where the source holds other images by now."""
        found = _opened(self.source)
        if found.digest != self.digest:
            raise ValueError(
                f"{self.title}: expected images with digest {self.digest}, found {found.digest}; they "
                "changed, begin again"
            )
        return found


class StatisticsFile(Spec):
    """Mean and covariance of features, `mu` and `sigma`, and of sFID's, `mu_s` and `sigma_s`, in the `.npz`
    at `source`."""

    source: Annotated[str, PLACEMENT]
    digest: str
    _widths: tuple[int, ...] = PrivateAttr(())

    @classmethod
    def at(cls, source: str) -> Self:
        """Look at `source`. Raises ValueError and FileNotFoundError as `read_statistics`."""
        found = _statistics(source)
        made = cls(source=source, digest=found.digest)
        made._widths = tuple(len(mean) for mean in (found.mu, found.mu_s) if mean is not None)
        return made

    @property
    def widths(self) -> tuple[int, ...]:
        """The number of features of `mu`, and of `mu_s` if it is there, so that a file that does not fit is
        refused before work begins.

        () of one that was not made by `at`: it is looked at when it is read.
        """
        return self._widths

    @property
    def title(self) -> str:
        return self.source.rpartition("/")[2]

    def read(self) -> dict[str, np.ndarray]:
        """The arrays by name, float64. Raises ValueError where the file holds others by now."""
        found = _statistics(self.source)
        if found.digest != self.digest:
            raise ValueError(
                f"{self.title}: expected statistics with digest {self.digest}, found {found.digest}; they "
                "changed, begin again"
            )
        arrays = {"mu": found.mu, "sigma": found.sigma, "mu_s": found.mu_s, "sigma_s": found.sigma_s}
        return {name: values for name, values in arrays.items() if values is not None}


@lru_cache(maxsize=8)
def _opened(source: str) -> Images:
    """Once a process: the digest of 10 GB takes its time."""
    from dgflow.images.sources import open_images

    return open_images(source)


@lru_cache(maxsize=2)
def _statistics(source: str) -> Statistics:
    from dgflow.images.statistics import read_statistics

    found = read_statistics(source)
    if found is None:
        raise ValueError(f"expected an .npz with mu and sigma at {source}, found none; correct the path")
    return found

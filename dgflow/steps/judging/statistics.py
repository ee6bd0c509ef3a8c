"""Statistics: mean and covariance of a reference's features, computed once for every comparison with the
reference."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import model_validator

from dgflow.specs.step import FILE_HEADER, ResultStep, Slice, Spread
from dgflow.steps.judging.features import Features

if TYPE_CHECKING:
    from dgflow.metrics.frechet import Moments
    from dgflow.specs.bound import Bound
    from dgflow.store.objects import ObjectStore

NAMES = {"features": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
"""Names of the mean and covariance of each column of `Features`, as in OpenAI's and EDM's files."""


class Statistics(ResultStep):
    """`mu` [D] and `sigma` [D, D] of `features`, for Inception also sFID's `mu_s` and `sigma_s`, and the
    number of images `n`, as an `.npz`."""

    suffix: ClassVar[str] = ".npz"

    features: Slice

    @property
    def title(self) -> str:
        return f"statistics of {self._step.samples.title}"

    @model_validator(mode="after")
    def _of_features(self) -> Statistics:
        if not isinstance(self.features.step, Features):
            raise ValueError(f"expected a slice of Features, found one of {self.features.step.kind}")
        return self

    @property
    def _step(self) -> Features:
        assert isinstance(self.features.step, Features)
        return self.features.step

    @property
    def columns(self) -> tuple[str, ...]:
        return ("features",) if self._step.front_end is None else ("features", "spatial")

    @property
    def file_bytes(self) -> int | None:
        widths = self._step.widths
        return None if widths is None else moments_bytes(widths[: len(self.columns)])

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """Returns the file."""
        del store
        from dgflow.steps.judging.feature_passes import summed

        sums = summed(inputs, "features", self.features.rows, self.columns, 1000, spread)
        file = io.BytesIO()
        np.savez(file, n=np.int64(self.features.rows), **arrays_of(sums.totals()))  # type: ignore[arg-type]
        return file.getvalue()


def moments_bytes(widths: Sequence[int]) -> int:
    """Returns the size of a file of means and covariances of features of these widths."""
    return FILE_HEADER + 8 * sum(width * (width + 1) for width in widths)


def arrays_of(moments: Mapping[str, Moments]) -> dict[str, np.ndarray]:
    """Returns mean and covariance by the names of `NAMES`, from moments by column."""
    arrays = {}
    for column, (mean, covariance) in NAMES.items():
        if column in moments:
            arrays |= {mean: moments[column].mean, covariance: moments[column].covariance}
    return arrays

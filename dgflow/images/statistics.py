"""Reads means and covariances of features in the formats of published references for FID and sFID: an npz
with `mu` and `sigma`, and `mu_s` and `sigma_s`, or EDM2's pickle of a dict with `mu` and `sigma` under "fid".

Images in the same file are not loaded, and no code in a pickle is executed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dgflow.files.locations import locate
from dgflow.files.npz import NpzFile
from dgflow.files.pickled_arrays import PickledArrays
from dgflow.images.covariance import covariance_fault
from dgflow.images.npz import IMAGE_NAMES
from dgflow.store.shards import rows_sha256

_PAIRS = (("mu", "sigma"), ("mu_s", "sigma_s"))


@dataclass(frozen=True, eq=False)
class Statistics:
    """The moments of the features of a reference, in float64."""

    source: str
    # `rows_sha256` of the arrays as float64, which does not depend on the file's form and its other arrays
    digest: str
    mu: np.ndarray  # mean [D] of pool_3
    sigma: np.ndarray  # covariance [D, D]
    mu_s: np.ndarray | None  # mean [D_s] of the spatial features, for sFID
    sigma_s: np.ndarray | None  # covariance [D_s, D_s] of the spatial features


def has_statistics(source: str) -> bool:
    """Returns True for a file with any of the moments. Raises as `locate` does, and ValueError if an .npz or
    .pkl has another format."""
    return any(name in array_names(source) for pair in _PAIRS for name in pair)


def has_images(source: str) -> bool:
    """Returns False for an npz without images and for statistics in a pickle, else True: `open_images`
    examines the other sources. Raises as `has_statistics` does.
    """
    names = array_names(source)
    return not names or any(name in names for name in IMAGE_NAMES)


def read_statistics(source: str) -> Statistics | None:
    """Returns the moments in an .npz or .pkl at a path or `s3://` URL, None if the source holds no moments.

    Raises:
        ValueError: a mean or its covariance is missing, shapes do not match, values are not finite or have
            fewer bits than float32 (which changes an FID by less than 1e-4), or a matrix is not a covariance.
    """
    file = _opened(source)
    if file is None or not has_statistics(source):
        return None
    names = file.names
    arrays: dict[str, np.ndarray] = {}
    for mean, covariance in _PAIRS:
        if (mean in names) != (covariance in names) or (mean == "mu" and mean not in names):
            raise ValueError(
                f"expected {mean} and {covariance} together in {source}, found the arrays {sorted(names)}"
            )
        if mean in names:
            width, shape = file.header(mean).shape, file.header(covariance).shape
            if len(width) != 1 or not width[0] or shape != width * 2:
                raise ValueError(
                    f"expected {mean} of shape (D,) and {covariance} of shape (D, D) in {source}, found "
                    f"{width} and {shape}"
                )
            arrays |= {name: _finite(file.array(name), f"{name} of {source}") for name in (mean, covariance)}
            if fault := covariance_fault(arrays[covariance]):
                raise ValueError(
                    f"expected a covariance in {covariance} of {source}, found a matrix that {fault}; "
                    "compute it again from the images, as np.cov(features, rowvar=False) in float64"
                )
    moments = (arrays["mu"], arrays["sigma"], arrays.get("mu_s"), arrays.get("sigma_s"))
    return Statistics(source, rows_sha256(arrays), *moments)


def array_names(source: str) -> list[str]:
    """Returns the names of the arrays in an .npz, or in a .pkl under "fid"; [] for every other source. Raises
    as `has_statistics` does."""
    file = _opened(source)
    return [] if file is None else file.names


def _opened(source: str) -> NpzFile | PickledArrays | None:
    """Opens the file by its suffix; None for a source that is neither an .npz nor a .pkl."""
    ending = source.lower().rpartition(".")[2]
    if ending not in ("npz", "pkl"):
        return None
    location = locate(source)
    if location.kind() != "file":
        raise ValueError(f"expected an {ending} at {source}, found no file there; correct the path")
    return NpzFile(source, location) if ending == "npz" else PickledArrays(source, location, "fid")


def _finite(values: np.ndarray, where: str) -> np.ndarray:
    if values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        raise ValueError(
            f"expected finite numbers in {where}, found {values.dtype} with NaN, infinity or no numbers"
        )
    whole = values.dtype.kind != "f"  # a mean may hold integers; a covariance of integers was rounded
    if (whole and where.startswith("sigma")) or (not whole and values.dtype.itemsize < 4):
        raise ValueError(
            f"expected float64 or float32 in {where}, found {values.dtype}, whose rounding changes an FID by "
            "one per cent or more; compute the statistics again in float64"
        )
    return values.astype(np.float64)

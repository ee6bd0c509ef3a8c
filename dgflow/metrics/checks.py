"""Checks of samples, of a reference and of their features, which show whether a metric can be trusted.

Functions named `check_...` raise ValueError. The others return a list of warnings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from dgflow.metrics.protocols import Protocol

_NAMED = 5  # maximum number of indices or classes named in a message
_UNEVEN = 1e-6  # p-value below which a class histogram is not due to chance
_FEW_EXPECTED = 5.0  # expected samples per class below which chi-square is invalid (Cochran 1954)


def sample_count(n: int, width: int, protocol: Protocol | None, metric: str = "FID") -> list[str]:
    """Warn if the covariance of `width` features is singular (n <= width), or if n is not the protocol's
    number of samples."""
    warnings = []
    if n <= width:
        warnings.append(
            f"{metric} is not meaningful: the covariance of {width:,} features from {n:,} samples is "
            f"singular, so {metric} is mostly bias; use far more than {width:,} samples"
        )
    if protocol is not None and protocol.samples not in (None, n):
        warnings.append(
            f"{n:,} samples, but protocol {protocol.name} uses {protocol.samples:,}: FID and sFID fall as n "
            f"grows, so compare only with values at n = {n:,}"
        )
    return warnings


def reference_count(n: int, width: int, metric: str = "FID") -> list[str]:
    """Warn if the covariance of `width` features of n reference images is singular."""
    if n > width:
        return []
    return [
        f"{metric} is not meaningful: the covariance of {width:,} features from the reference's {n:,} images "
        f"is singular; use a reference of far more than {width:,} images, or published statistics"
    ]


def shared_images(digests_N: Sequence[bytes], reference_digests_M: Sequence[bytes]) -> list[str]:
    """Warn about samples that equal an image of the reference. Digests are those of `pixel_digests`, in index
    order."""
    known = set(reference_digests_M)
    indices = [index for index, digest in enumerate(digests_N) if digest in known]
    if not indices:
        return []
    return [
        f"{len(indices):,} of {len(digests_N):,} samples equal an image of the reference pixel for pixel: "
        f"index {_first(indices)}"
    ]


def manifold_count(reference_n: int, protocol: Protocol | None) -> list[str]:
    """Warn if precision and recall use another number of reference images than the protocol."""
    if protocol is None or protocol.manifold_images in (None, reference_n):
        return []
    return [
        f"precision and recall use {reference_n:,} reference images, but protocol {protocol.name} uses "
        f"{protocol.manifold_images:,}: both depend on that number, so do not compare them with published "
        "values"
    ]


def class_balance(labels_N: np.ndarray | None, classes: int | None) -> list[str]:
    """Warn if labels in [0, classes) are far from uniform: chi-square p < 1e-6.

    Unknown labels (None, or any -1) and fewer than 5 expected samples per class are not judged. If `classes`
    is None, the number of classes is the largest label + 1, and negative labels are not judged.

    Raises:
        ValueError: a label is outside [0, classes).
    """
    if labels_N is None or len(labels_N) == 0 or (np.asarray(labels_N) == -1).any():
        return []
    labels_N = np.asarray(labels_N)
    if classes is None:
        classes = 0 if labels_N.min() < 0 else int(labels_N.max()) + 1
    if classes < 2:
        return []
    if labels_N.min() < 0 or labels_N.max() >= classes:
        extremes = f"{labels_N.min()} to {labels_N.max()}"
        raise ValueError(f"expected labels from 0 to {classes - 1}, found {extremes}")
    expected = len(labels_N) / classes
    if expected < _FEW_EXPECTED:
        return []
    counts = np.bincount(labels_N, minlength=classes)
    from scipy.special import chdtrc

    if chdtrc(classes - 1, float(np.square(counts - expected).sum() / expected)) >= _UNEVEN:
        return []
    order, missing = np.argsort(counts, kind="stable"), np.flatnonzero(counts == 0)
    most = [label for label in order[::-1][:_NAMED] if counts[label] > expected]
    fewest = [label for label in order[:_NAMED] if 0 < counts[label] < expected]
    parts = [
        f"{word}: " + ", ".join(f"class {label} ({counts[label]:,})" for label in labels)
        for word, labels in (("most", most), ("fewest", fewest))
        if labels
    ]
    if len(missing):
        parts.append(f"missing: class {_first(missing)}")
    return [
        f"labels are far from uniform, while protocols draw them uniformly at random: {expected:,.1f} "
        "expected per class; " + "; ".join(parts)
    ]


def constant_indices(images: Iterable[np.ndarray], first_index: int = 0) -> list[int]:
    """The indices of the images [H, W] or [H, W, C] of a batch that have a single colour, as input for
    `constant_images`."""
    return [first_index + number for number, image in enumerate(images) if (image == image[:1, :1]).all()]


def constant_images(indices: Sequence[int], n: int) -> list[str]:
    """Warn about images with a single colour among n images; `indices` are the `constant_indices` of all."""
    if not indices:
        return []
    return [f"{len(indices):,} of {n:,} images have a single colour: index {_first(sorted(indices))}"]


def pixel_digests(images: Iterable[np.ndarray]) -> list[bytes]:
    """A digest of 16 bytes per image, equal for equal pixels, shape and dtype, as input for
    `repeated_images`."""
    return [
        hashlib.blake2b(f"{image.dtype.str}{image.shape}".encode() + image.tobytes(), digest_size=16).digest()
        for image in images
    ]


def repeated_images(digests_N: Sequence[bytes]) -> list[str]:
    """Warn about images that equal an earlier image. `digests_N` are those of `pixel_digests`, in index order
    from 0."""
    firsts: dict[bytes, int] = {}
    earlier_N = [firsts.setdefault(digest, index) for index, digest in enumerate(digests_N)]
    pairs = [(index, earlier) for index, earlier in enumerate(earlier_N) if earlier != index]
    if not pairs:
        return []
    return [
        f"{len(pairs):,} of {len(digests_N):,} images repeat an earlier one pixel for pixel; the first is "
        f"index {pairs[0][0]}, equal to index {pairs[0][1]}"
    ]


def check_statistics(statistics_width: int, features_width: int, metric: str = "FID") -> None:
    """Raise ValueError unless published statistics [D], [D, D] have the dimension of the features."""
    if statistics_width != features_width:
        raise ValueError(
            f"{metric}: expected reference statistics of {features_width:,} features, found "
            f"{statistics_width:,}; use statistics of the same network and layer"
        )


def check_apart(samples: tuple[str, int, int], reference: tuple[str, int, int]) -> None:
    """Raise ValueError if samples and reference, each (source or digest, start, stop), share an image."""
    (source, start, stop), (other, other_start, other_stop) = samples, reference
    if source == other and start < other_stop and other_start < stop:
        raise ValueError(
            "samples are measured against themselves: expected other images than the reference's "
            f"[{other_start}:{other_stop}], found [{start}:{stop}] of the same source; use slices that do "
            "not overlap"
        )


def _first(items: Sequence[int] | np.ndarray) -> str:
    """List the first items, such as `3, 7, 9 and 12 more`."""
    more = f" and {len(items) - _NAMED:,} more" if len(items) > _NAMED else ""
    return ", ".join(str(item) for item in items[:_NAMED]) + more

"""Checks of samples, of a reference and of their features, before a number is trusted.

Functions named `check_...` raise ValueError; the others return warnings, [] if there are none.
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
    """Warn if n <= `width` (features), so that the covariance is singular, or if n is not the protocol's."""
    warnings = []
    if n <= width:
        warnings.append(
            f"{metric} is not meaningful: the covariance of {width:,} features from {n:,} samples is "
            f"singular, so {metric} is mostly bias; take far more than {width:,} samples"
        )
    if protocol is not None and protocol.samples not in (None, n):
        warnings.append(
            f"{n:,} samples, but protocol {protocol.name} takes {protocol.samples:,}: FID and sFID fall as n "
            f"grows, so compare only with others at n = {n:,}"
        )
    return warnings


def reference_count(n: int, width: int, metric: str = "FID") -> list[str]:
    """Warn if the covariance of `width` features of n reference images is singular."""
    if n > width:
        return []
    return [
        f"{metric} is not meaningful: the covariance of {width:,} features from the reference's {n:,} images "
        f"is singular; take a reference of far more than {width:,} images, or published statistics"
    ]


def shared_images(digests_N: Sequence[bytes], reference_digests_M: Sequence[bytes]) -> list[str]:
    """Warn of samples that equal an image of the reference; digests of `pixel_digests`, in index order."""
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
        f"precision and recall use {reference_n:,} reference images, but protocol {protocol.name} takes "
        f"{protocol.manifold_images:,}: both depend on that number, so do not compare them with published "
        "ones"
    ]


def class_balance(labels_N: np.ndarray | None, classes: int | None) -> list[str]:
    """Warn if labels in [0, classes) are far from uniform: chi-square p < 1e-6.

    Unknown labels (None, any -1) and fewer than 5 per class are not judged; a label out of range raises
    ValueError. If the number of classes is unknown (None), it follows from the largest label, and labels with
    any negative value are not judged.
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
        parts.append(f"none at all: class {_first(missing)}")
    return [
        f"labels are far from uniform, and protocols draw them at random: {expected:,.1f} expected a class; "
        + "; ".join(parts)
    ]


def constant_indices(images: Iterable[np.ndarray], first_index: int = 0) -> list[int]:
    """Indices of the images [H, W] or [H, W, C] of a batch that have a single colour; for
    `constant_images`.
    """
    return [first_index + number for number, image in enumerate(images) if (image == image[:1, :1]).all()]


def constant_images(indices: Sequence[int], n: int) -> list[str]:
    """Warn of images with a single colour among n; `indices` are all `constant_indices`."""
    if not indices:
        return []
    return [f"{len(indices):,} of {n:,} images have a single colour: index {_first(sorted(indices))}"]


def pixel_digests(images: Iterable[np.ndarray]) -> list[bytes]:
    """16 bytes per image, equal for equal pixels, shape and dtype; for `repeated_images`."""
    return [
        hashlib.blake2b(f"{image.dtype.str}{image.shape}".encode() + image.tobytes(), digest_size=16).digest()
        for image in images
    ]


def repeated_images(digests_N: Sequence[bytes]) -> list[str]:
    """Warn of images that equal an earlier one; `digests_N` of `pixel_digests`, in index order from 0."""
    firsts: dict[bytes, int] = {}
    earlier_N = [firsts.setdefault(digest, index) for index, digest in enumerate(digests_N)]
    pairs = [(index, earlier) for index, earlier in enumerate(earlier_N) if earlier != index]
    if not pairs:
        return []
    return [
        f"{len(pairs):,} of {len(digests_N):,} images repeat an earlier one pixel for pixel; the first is "
        f"index {pairs[0][0]}, equal to {pairs[0][1]}"
    ]


def check_statistics(statistics_width: int, features_width: int, metric: str = "FID") -> None:
    """Raise ValueError unless published statistics [D], [D, D] have the dimension of the features."""
    if statistics_width != features_width:
        raise ValueError(
            f"{metric}: expected reference statistics of {features_width:,} features, found "
            f"{statistics_width:,}; take statistics of the same network and layer"
        )


def check_apart(samples: tuple[str, int, int], reference: tuple[str, int, int]) -> None:
    """Raise ValueError if samples and reference, each (source or digest, start, stop), share an image."""
    (source, start, stop), (other, other_start, other_stop) = samples, reference
    if source == other and start < other_stop and other_start < stop:
        raise ValueError(
            "samples are measured against themselves: expected other images than the reference's "
            f"[{other_start}:{other_stop}], found [{start}:{stop}] of the same source; give slices that do "
            "not overlap"
        )


def _first(items: Sequence[int] | np.ndarray) -> str:
    """List the first items, such as `3, 7, 9 and 12 more`."""
    more = f" and {len(items) - _NAMED:,} more" if len(items) > _NAMED else ""
    return ", ".join(str(item) for item in items[:_NAMED]) + more

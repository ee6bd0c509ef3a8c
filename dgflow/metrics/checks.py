"""What can be wrong with samples, a reference or their features before a number is believed.

Promises: functions on plain values. Those called `check_...` raise ValueError, the others give warnings, []
    where all is well. What looks
at images does so a batch at a time and gives facts to be gathered. Leaves to others: reading the images, and
    where warnings are shown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from dgflow.metrics.protocols import Protocol

_NAMED = 5  # at most so many indices or classes are named
_UNEVEN = 1e-6  # p below which a histogram of classes is not by chance
_FEW_EXPECTED = 5.0  # samples a class below which the chi-square law does not hold (Cochran 1954)


def sample_count(n: int, width: int, protocol: Protocol | None, metric: str = "FID") -> list[str]:
    """Warns of a singular covariance where n <= `width`, the number of `metric`'s features, and if n is not
    the protocol's."""
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


def manifold_count(reference_n: int, protocol: Protocol | None) -> list[str]:
    """Warns if precision and recall use another number of reference images than the protocol does."""
    if protocol is None or protocol.manifold_images in (None, reference_n):
        return []
    return [
        f"precision and recall use {reference_n:,} reference images, but protocol {protocol.name} takes "
        f"{protocol.manifold_images:,}: "
        "both depend on that number, so do not compare them with published ones"
    ]


def class_balance(labels_N: np.ndarray | None, classes: int) -> list[str]:
    """Warns if labels in [0, classes) are far from uniform: chi-square p < 1e-6. Not looked at: None, any -1,
    or < 5 samples a class.

    Raises ValueError for a label outside.
    """
    if labels_N is None or len(labels_N) == 0 or classes < 2 or (np.asarray(labels_N) == -1).any():
        return []
    labels_N = np.asarray(labels_N)
    if labels_N.min() < 0 or labels_N.max() >= classes:
        raise ValueError(
            f"expected labels from 0 to {classes - 1}, found {labels_N.min()} to {labels_N.max()}"
        )
    counts, expected = np.bincount(labels_N, minlength=classes), len(labels_N) / classes
    if expected < _FEW_EXPECTED:
        return []
    from scipy.special import chdtrc

    if chdtrc(classes - 1, float(np.square(counts - expected).sum() / expected)) >= _UNEVEN:
        return []
    order, missing = np.argsort(counts, kind="stable"), np.flatnonzero(counts == 0)
    rarest = [place for place in order[:_NAMED] if 0 < counts[place] < expected]
    parts = [
        _classes("most", [place for place in order[::-1][:_NAMED] if counts[place] > expected], counts),
        _classes("fewest", rarest, counts),
        f"none at all: class {_first(missing)}" if len(missing) else "",
    ]
    return [
        f"labels are far from uniform, and protocols draw them at random: {expected:,.1f} expected a class; "
        + "; ".join(part for part in parts if part)
    ]


def _classes(word: str, places: Sequence[int], counts: np.ndarray) -> str:
    return f"{word}: " + ", ".join(f"class {place} ({counts[place]:,})" for place in places) if places else ""


def constant_indices(images: Iterable[np.ndarray], first_index: int = 0) -> list[int]:
    """Indices of the images [H, W] or [H, W, C] of a batch whose pixels all have one colour; for
    `constant_images`."""
    return [first_index + number for number, image in enumerate(images) if (image == image[:1, :1]).all()]


def constant_images(indices: Sequence[int], n: int) -> list[str]:
    """Warns of the images, of n, that have one colour; `indices` as `constant_indices` gave them for all
    batches."""
    return (
        [f"{len(indices):,} of {n:,} images have a single colour: index {_first(sorted(indices))}"]
        if indices
        else []
    )


def pixel_digests(images: Iterable[np.ndarray]) -> list[bytes]:
    """16 bytes an image that are equal for equal pixels, shape and dtype; for `repeated_images`."""
    return [
        hashlib.blake2b(f"{image.dtype.str}{image.shape}".encode() + image.tobytes(), digest_size=16).digest()
        for image in images
    ]


def repeated_images(digests_N: Sequence[bytes]) -> list[str]:
    """Warns of images that equal an earlier one pixel for pixel; digests of `pixel_digests`, in index order
    from 0."""
    seen: dict[bytes, int] = {}
    pairs = [
        (first, index)
        for index, digest in enumerate(digests_N)
        if (first := seen.setdefault(digest, index)) != index
    ]
    if not pairs:
        return []
    return [
        f"{len(pairs):,} of {len(digests_N):,} images repeat an earlier one pixel for pixel; the first is "
        f"index {pairs[0][1]}, equal to {pairs[0][0]}"
    ]


def check_statistics(statistics_width: int, features_width: int, metric: str = "FID") -> None:
    """Raises ValueError unless published statistics [D], [D, D] have the features' dimension."""
    if statistics_width != features_width:
        raise ValueError(
            f"{metric}: expected reference statistics of {features_width:,} features, found "
            f"{statistics_width:,}; take statistics of the same network and layer"
        )


def check_apart(samples: tuple[str, int, int], reference: tuple[str, int, int]) -> None:
    """Raises ValueError if samples and reference, each (source or its digest, start, stop), share an image."""
    (source, start, stop), (other, other_start, other_stop) = samples, reference
    if source == other and start < other_stop and other_start < stop:
        raise ValueError(
            "samples are measured against themselves: expected other images than the reference's "
            f"[{other_start}:{other_stop}], "
            f"found [{start}:{stop}] of the same source; give slices that do not overlap"
        )


def _first(items: Sequence[int] | np.ndarray) -> str:
    """`3, 7, 9 and 12 more`."""
    more = f" and {len(items) - _NAMED:,} more" if len(items) > _NAMED else ""
    return ", ".join(str(item) for item in items[:_NAMED]) + more

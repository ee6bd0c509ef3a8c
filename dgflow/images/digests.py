"""Digests of images: of pixels where a file holds arrays, of the files' bytes where it holds pictures.

Arrays of the same pixels and labels have the same digest in every kind of file (`rows_sha256` of the columns
`image` and `label`), and so have the same pictures in the same order with the same labels in a folder, a zip,
a tar or Parquet. The two kinds are not comparable: a PNG's bytes depend on the program that wrote it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from dgflow.store.identity import canonical_json


def pixels_sha256(
    blocks: Iterable[bytes | memoryview], shape: tuple[int, ...], labels: np.ndarray | None
) -> str:
    """The digest of uint8 images [rows, H, W, C], given as consecutive blocks of their C-order bytes, and
    int64 labels."""
    digest = hashlib.sha256(canonical_json(["image", "|u1", list(shape)]).encode() + b"\n")
    for block in blocks:
        digest.update(block)
    _add_labels(digest, labels)
    return digest.hexdigest()


def pictures_sha256(pictures: Iterable[bytes], labels: np.ndarray | None) -> str:
    """The digest of encoded pictures in row order, each by the sha256 of its bytes, and int64 labels."""
    digest = hashlib.sha256(b'"pictures"\n')
    for picture in pictures:
        digest.update(hashlib.sha256(picture).digest())
    _add_labels(digest, labels)
    return digest.hexdigest()


def _add_labels(digest, labels: np.ndarray | None) -> None:
    if labels is not None:
        little = np.ascontiguousarray(labels, "<i8")
        digest.update(canonical_json(["label", "<i8", list(little.shape)]).encode() + b"\n")
        digest.update(little.tobytes())

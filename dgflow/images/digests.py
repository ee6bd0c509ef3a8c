"""Digests of images: of pixels if a file holds arrays, of the files' bytes if it holds pictures.

Arrays of the same pixels and labels have the same digest in every file format (`rows_sha256` of the columns
`image` and `label`). The same pictures in the same order with the same labels have the same digest in a
folder, a zip, a tar and Parquet. Digests of arrays and of pictures are not comparable: a PNG's bytes depend
on the program that wrote it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from dgflow.store.identity import canonical_json


class Digests(NamedTuple):
    """The digest of a set of images, and the digests of its rows, with which a reader of a few rows verifies
    only those.

    Attributes:
        whole: sha256 of all rows and labels, 64 hex digits.
        rows: sha256 of each row, uint8 [rows, 32]; None if a reader verifies all rows in any case.
    """

    whole: str
    rows: np.ndarray | None = None


def row_sha256(row: bytes | np.ndarray) -> bytes:
    """Returns the digest (32 bytes) of one picture's bytes, or of one image's pixels in C order."""
    return hashlib.sha256(_buffer(row)).digest()


def picture_digests(pictures: Iterable[bytes], labels: np.ndarray | None) -> Digests:
    """Returns the digests of encoded pictures in row order, from the sha256 of each picture's bytes and int64
    labels."""
    rows = bytearray()
    for picture in pictures:
        rows += row_sha256(picture)
    digest = hashlib.sha256(b'"pictures"\n')
    digest.update(rows)
    _add_labels(digest, labels)
    return Digests(digest.hexdigest(), _by_row(rows))


def pixel_digests(
    images: Iterable[bytes | np.ndarray], shape: tuple[int, ...], labels: np.ndarray | None
) -> Digests:
    """Returns the digests of uint8 images [rows, H, W, C], yielded one by one, and int64 labels."""
    rows = bytearray()

    def blocks() -> Iterable[bytes | memoryview]:
        for image in images:
            rows.extend(row_sha256(image))
            yield _buffer(image)

    return Digests(pixels_sha256(blocks(), shape, labels), _by_row(rows))


def pixels_sha256(
    blocks: Iterable[bytes | memoryview], shape: tuple[int, ...], labels: np.ndarray | None
) -> str:
    """Returns the digest of uint8 images [rows, H, W, C], yielded as consecutive blocks of their C-order
    bytes, and int64 labels."""
    digest = hashlib.sha256(canonical_json(["image", "|u1", list(shape)]).encode() + b"\n")
    for block in blocks:
        digest.update(block)
    _add_labels(digest, labels)
    return digest.hexdigest()


def _buffer(row: bytes | np.ndarray) -> bytes | memoryview:
    return np.ascontiguousarray(row).data if isinstance(row, np.ndarray) else row


def _by_row(digests: bytearray) -> np.ndarray:
    return np.frombuffer(digests, np.uint8).reshape(-1, hashlib.sha256().digest_size)


def _add_labels(digest, labels: np.ndarray | None) -> None:
    if labels is not None:
        little = np.ascontiguousarray(labels, "<i8")
        digest.update(canonical_json(["label", "<i8", list(little.shape)]).encode() + b"\n")
        digest.update(little.tobytes())

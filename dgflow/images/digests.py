"""Computes digests of images: of the pixels of arrays, and of the encoded bytes of pictures.

Arrays of the same pixels and labels have the same digest in every file format (`rows_sha256` of the columns
`image` and `label`). The same pictures in the same order with the same labels have the same digest in a
folder, a zip, a tar and Parquet. Digests of arrays and of pictures are not comparable, since the bytes of a
PNG depend on the program that wrote it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from dgflow.store.identity import canonical_json


class Digests(NamedTuple):
    """The digest of a set of images, and the digests of its rows, so that a reader of a few rows can verify
    only these.

    Attributes:
        whole: sha256 of all rows and labels, 64 hex digits.
        rows: sha256 of each row, uint8 [rows, 32]; None if a reader always verifies the whole set.
    """

    whole: str
    rows: np.ndarray | None = None


def row_sha256(row: bytes | np.ndarray) -> bytes:
    """Returns the digest, 32 bytes, of the bytes of one picture or of the pixels of one image in C order."""
    return hashlib.sha256(_buffer(row)).digest()


def picture_digests(pictures: Iterable[bytes], labels: np.ndarray | None) -> Digests:
    """Returns the digests of pictures in row order. The whole digest is computed from the sha256 of each
    picture's bytes and from the int64 labels."""
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
    """Returns the digests of uint8 images [rows, H, W, C], given one by one, with int64 labels."""
    rows = bytearray()

    def blocks() -> Iterable[bytes | memoryview]:
        for image in images:
            rows.extend(row_sha256(image))
            yield _buffer(image)

    return Digests(pixels_sha256(blocks(), shape, labels), _by_row(rows))


def pixels_sha256(
    blocks: Iterable[bytes | memoryview], shape: tuple[int, ...], labels: np.ndarray | None
) -> str:
    """Returns the digest of uint8 images [rows, H, W, C] with int64 labels. The images are given as
    consecutive blocks of their C-order bytes."""
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

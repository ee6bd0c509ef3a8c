"""Small versions of data sets in their published form: trees of pictures in tars and zips, CIFAR's archives
with the pickles of Python 2."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(out, "PNG")
    return out.getvalue()


def write_tree(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def tar_bytes(files: dict[str, bytes], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.write_bytes(tar_bytes(files, "w:gz" if path.name.endswith("gz") else "w"))
    return path


def write_zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def by_class(files: dict[str, bytes]) -> dict[str, dict[str, bytes]]:
    """Groups paths `class/name` as `{class: {name: data}}`."""
    found: dict[str, dict[str, bytes]] = {}
    for name, data in files.items():
        folder, _, base = name.rpartition("/")
        found.setdefault(folder, {})[base] = data
    return found


def cifar_records(count: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixels in CIFAR's layout, uint8 [count, 3072] (red, green and blue planes), and labels."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 3072), np.uint8), random.integers(0, classes, count)


def as_images(records: np.ndarray) -> np.ndarray:
    """Converts records to uint8 [N, 32, 32, 3], one value at a time."""
    images = np.zeros((len(records), 32, 32, 3), np.uint8)
    for channel in range(3):
        for row in range(32):
            start = channel * 1024 + row * 32
            images[:, row, :, channel] = records[:, start : start + 32]
    return images


def python2_batch(
    records: np.ndarray,
    labels: np.ndarray,
    label_key: bytes,
    reconstruct: bytes = b"numpy.core.multiarray\n_reconstruct\n",
):
    """Returns a pickle as Python 2 wrote it: protocol 2, strings as bytes, the array through numpy's
    `_reconstruct`."""

    def text(value: bytes) -> bytes:
        return (
            b"U" + bytes([len(value)]) + value
            if len(value) < 256
            else b"T" + struct.pack("<i", len(value)) + value
        )

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    dtype = (
        b"cnumpy\ndtype\n("
        + text(b"u1")
        + b"K\x00K\x01tR(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    shape = b"(" + number(len(records)) + number(records.shape[1]) + b"t"
    array = b"c" + reconstruct + b"(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
    array += b"(K\x01" + shape + dtype + b"\x89" + text(records.tobytes()) + b"tb"
    listed = b"](" + b"".join(number(int(label)) for label in labels) + b"e"
    items = text(b"batch_label") + text(b"training batch") + text(label_key) + listed + text(b"data") + array
    return b"\x80\x02}(" + items + b"u."


def cifar10_files(
    per_batch: int = 6, binary: bool = False
) -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    """Returns the archive's files, and the images and labels of its training batches."""
    parts = [cifar_records(per_batch, 10, number) for number in range(6)]
    files = {}
    for number, (records, labels) in enumerate(parts):
        name = "test_batch" if number == 0 else f"data_batch_{number}"
        if binary:
            files[f"cifar-10-batches-bin/{name}.bin"] = np.concatenate(
                [labels[:, None].astype(np.uint8), records], axis=1
            ).tobytes()
        else:
            files[f"cifar-10-batches-py/{name}"] = python2_batch(records, labels, b"labels")
    files |= (
        {"cifar-10-batches-bin/batches.meta.txt": b"airplane\n"}
        if binary
        else {"cifar-10-batches-py/batches.meta": b"\x80\x02}."}
    )
    records, labels = (np.concatenate(values) for values in zip(*parts[1:], strict=True))
    return files, as_images(records), labels


def cifar100_files(count: int = 8, binary: bool = False) -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    records, labels = cifar_records(count, 100, 7)
    if binary:
        columns = [np.full((count, 1), 3, np.uint8), labels[:, None].astype(np.uint8), records]
        files = {
            "cifar-100-binary/train.bin": np.concatenate(columns, axis=1).tobytes(),
            "cifar-100-binary/fine_label_names.txt": b"apple\n",
        }
    else:
        train = python2_batch(records, labels, b"fine_labels")
        files = {
            "cifar-100-python/train": train,
            "cifar-100-python/test": train,
            "cifar-100-python/meta": b"\x80\x02}.",
        }
    return files, as_images(records), labels

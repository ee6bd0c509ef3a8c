"""Sources of images in every form that a listing knows."""

import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images.archives import by_class, png, tar_bytes, write_tar, write_tree, write_zip

CLASSES = ("ant", "bee", "cat")
ZIPS = {
    "zip": zipfile.ZIP_DEFLATED,
    "zip stored": zipfile.ZIP_STORED,
    "zip bzip2": zipfile.ZIP_BZIP2,
    "zip lzma": zipfile.ZIP_LZMA,
}


@pytest.fixture
def files(pixels) -> dict[str, bytes]:
    """Returns three classes of eight pictures; the order of the names is that of `pixels`."""
    return {f"{CLASSES[item // 8]}/{item % 8:02d}.png": png(image) for item, image in enumerate(pixels)}


def write(form: str, folder: Path, files: dict[str, bytes]) -> str:
    backwards = dict(reversed(files.items()))
    if form == "folder":
        path = write_tree(folder / "tree", backwards)
    elif form == "folder of tars":
        path = write_tree(
            folder / "tars", {f"{name}.tar": tar_bytes(inner) for name, inner in by_class(files).items()}
        )
    elif form == "folder of tgz":
        path = write_tree(
            folder / "tars",
            {f"{name}.tgz": tar_bytes(inner, "w:gz") for name, inner in by_class(files).items()},
        )
    elif form == "tar of tars":
        path = write_tar(
            folder / "a.tar",
            {f"{name}.tar": tar_bytes(inner) for name, inner in reversed(by_class(files).items())},
        )
    elif form.startswith("zip"):
        path = write_zip(folder / "a.zip", backwards, ZIPS[form])
    else:
        path = write_tar(folder / f"a.{form}", {"./" + name: data for name, data in backwards.items()})
    return str(path)


def same(found, expected) -> bool:
    """True if the images are those pixels, and none is an error."""
    images = list(found)
    return not any(isinstance(image, ValueError) for image in images) and np.array_equal(images, expected)


PICTURES = [
    "folder",
    "zip",
    "zip stored",
    "zip bzip2",
    "zip lzma",
    "tar",
    "tar.gz",
    "tgz",
    "tar of tars",
    "folder of tars",
    "folder of tgz",
]


def parquet(
    path: Path, pixels: np.ndarray, labels: np.ndarray, image: str = "image", label: str = "label"
) -> Path:
    cells = pa.array(
        [{"bytes": png(each), "path": None} for each in pixels],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({image: cells, label: labels}), path, row_group_size=5)
    return path

"""The three front ends against TensorFlow, NVIDIA's form and clean-fid, at every size in the goldens (channel 0 of one image a size)."""

import re

import numpy as np
import pytest
from parity.metric_goldens import FOLDER

from dgflow.metrics.front_ends import prepare
from dgflow.metrics.protocols import FrontEndName

IMAGES = np.load(FOLDER / "resize_channel0.npz")
TENSORFLOW = np.load(FOLDER / "resize_tf_channel0.npz")
SIZES = [int(key.removeprefix("img_")) for key in IMAGES.files if re.fullmatch(r"img_\d+", key)]
GREY_LEVELS = 2e-5  # two units in the last place of 255


def _with(stored: np.lib.npyio.NpzFile, prefix: str) -> list[int]:
    return [size for size in SIZES if f"{prefix}_{size}" in stored.files]


def _compare(size: int, front_end: FrontEndName, expected: np.ndarray) -> None:
    prepared = prepare(IMAGES[f"img_{size}"].transpose(1, 2, 0)[None], front_end)
    np.testing.assert_allclose(prepared[0, 0].double().numpy() * 128 + 128, expected, rtol=0, atol=GREY_LEVELS)


@pytest.mark.parametrize("size", _with(TENSORFLOW, "tf_resize_bilinear"))
def test_the_adm_front_end_equals_tensorflow(size):
    _compare(size, "adm", TENSORFLOW[f"tf_resize_bilinear_{size}"])


@pytest.mark.parametrize("size", _with(IMAGES, "tf1_bilinear_gridsample_nvidia"))
def test_the_edm_front_end_equals_nvidias_form(size):
    _compare(size, "edm", IMAGES[f"tf1_bilinear_gridsample_nvidia_{size}"])


@pytest.mark.parametrize("size", _with(IMAGES, "cleanfid_pil_bicubic"))
def test_the_clean_front_end_equals_clean_fid(size):
    _compare(size, "clean", IMAGES[f"cleanfid_pil_bicubic_{size}"])


def test_the_folder_holds_every_front_end():
    assert _with(TENSORFLOW, "tf_resize_bilinear")
    assert _with(IMAGES, "tf1_bilinear_gridsample_nvidia")
    assert _with(IMAGES, "cleanfid_pil_bicubic")

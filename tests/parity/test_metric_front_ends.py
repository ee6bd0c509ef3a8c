"""The three front ends against TensorFlow, NVIDIA's form and clean-fid, at every size in the goldens (channel
0 of one image a size)."""

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


def _channel0(size: int, front_end: FrontEndName) -> np.ndarray:
    prepared = prepare(IMAGES[f"img_{size}"].transpose(1, 2, 0)[None], front_end)
    return prepared[0, 0].double().numpy() * 128 + 128


@pytest.mark.parametrize("size", _with(TENSORFLOW, "tf_resize_bilinear"))
def test_the_adm_front_end_equals_tensorflow(size):
    np.testing.assert_allclose(
        _channel0(size, "adm"), TENSORFLOW[f"tf_resize_bilinear_{size}"], rtol=0, atol=GREY_LEVELS
    )


@pytest.mark.parametrize("size", _with(IMAGES, "tf1_bilinear_gridsample_nvidia"))
def test_the_edm_front_end_equals_nvidias_form(size):
    # A place of the grid's float32 numbers in [-1, 1] is up to size * 2^-23 pixels, and those differ by up to
    # 255.
    expected, of_grid = IMAGES[f"tf1_bilinear_gridsample_nvidia_{size}"], 255 * size * 2**-23
    np.testing.assert_allclose(_channel0(size, "edm"), expected, rtol=0, atol=max(GREY_LEVELS, of_grid))


@pytest.mark.parametrize("size", _with(IMAGES, "tf1_bilinear_gridsample_nvidia"))
def test_the_edm_front_end_is_nearer_to_nvidias_form_than_the_adm_one_is(size):
    expected = IMAGES[f"tf1_bilinear_gridsample_nvidia_{size}"]
    edm, adm = (np.abs(_channel0(size, front_end) - expected).mean() for front_end in ("edm", "adm"))
    assert edm < adm / 2


@pytest.mark.parametrize("size", _with(IMAGES, "cleanfid_pil_bicubic"))
def test_the_clean_front_end_equals_clean_fid(size):
    np.testing.assert_allclose(
        _channel0(size, "clean"), IMAGES[f"cleanfid_pil_bicubic_{size}"], rtol=0, atol=GREY_LEVELS
    )


def test_the_folder_holds_every_front_end():
    assert _with(TENSORFLOW, "tf_resize_bilinear")
    assert _with(IMAGES, "tf1_bilinear_gridsample_nvidia")
    assert _with(IMAGES, "cleanfid_pil_bicubic")

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
    # Places go through float32 numbers g in [-1, 1] and then ((g + 1) * size - 1) / 2. With u = 2^-24, g is
    # rounded four times on its way (a step times an index, their sum, a factor, a sum), together by 2.5 u at
    # most, and g + 1 by u: of size / 2 pixels. The product and the difference are rounded by size * u each.
    # That is less than 4 u * size on this CPU, and as much on that of the goldens, in both directions of an
    # image whose neighbours differ by up to 255.
    expected, of_grid = IMAGES[f"tf1_bilinear_gridsample_nvidia_{size}"], 255 * 2 * 2 * 4 * size * 2**-24
    np.testing.assert_allclose(_channel0(size, "edm"), expected, rtol=0, atol=max(GREY_LEVELS, of_grid))


@pytest.mark.parametrize("size", _with(IMAGES, "tf1_bilinear_gridsample_nvidia"))
def test_the_edm_front_end_has_the_rounding_of_nvidias_form_and_the_adm_one_has_not(size):
    # A CPU that fuses product and sum rounds once where another does twice: errors of one origin, whose sizes
    # are within a factor of two.
    exact, expected = _channel0(size, "adm"), IMAGES[f"tf1_bilinear_gridsample_nvidia_{size}"]
    here, there = (np.abs(images - exact).mean() for images in (_channel0(size, "edm"), expected))
    assert there / 2 < here < 2 * there


@pytest.mark.parametrize("size", _with(IMAGES, "cleanfid_pil_bicubic"))
def test_the_clean_front_end_equals_clean_fid(size):
    np.testing.assert_allclose(
        _channel0(size, "clean"), IMAGES[f"cleanfid_pil_bicubic_{size}"], rtol=0, atol=GREY_LEVELS
    )


def test_the_folder_holds_every_front_end():
    assert _with(TENSORFLOW, "tf_resize_bilinear")
    assert _with(IMAGES, "tf1_bilinear_gridsample_nvidia")
    assert _with(IMAGES, "cleanfid_pil_bicubic")

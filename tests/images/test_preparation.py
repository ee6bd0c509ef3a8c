"""Preparations against closed forms, torch's antialiased filter and a direct implementation of the rule."""

import numpy as np
import pytest
import torch
from PIL import Image

from dgflow.images.preparation import adm_center_crop, lanczos, prepare, score_sde_celeba


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack(
        [127 + 100 * np.sin(x / 9 + y / 17), 127 + 100 * np.cos(x / 5), 255 * y / height], axis=2
    ).astype(np.uint8)


@pytest.mark.parametrize(
    "shape", [(300, 400, 3), (64, 64, 3), (65, 63, 1), (500, 129, 3), (1000, 777, 3), (20, 31, 3)]
)
def test_a_constant_picture_stays_constant(shape):
    found = adm_center_crop(np.full(shape, 77, np.uint8), 64)
    assert found.shape == (64, 64, shape[2]) and (found == 77).all()


def test_a_picture_of_the_right_size_is_left_alone():
    pixels = smooth(64, 64)
    assert np.array_equal(adm_center_crop(pixels, 64), pixels) and np.array_equal(lanczos(pixels, 64), pixels)


@pytest.mark.parametrize(
    ("height", "width", "top", "left"), [(64, 97, 0, 16), (97, 64, 16, 0), (64, 66, 0, 1), (64, 64, 0, 0)]
)
def test_adms_crop_takes_the_centre_and_rounds_its_offsets_down(height, width, top, left):
    pixels = smooth(height, width)
    assert np.array_equal(adm_center_crop(pixels, 64), pixels[top : top + 64, left : left + 64])


def test_adm_halves_with_a_box_filter():
    """At twice the size, the means of 2 along rows and then along columns are rounded each time; nothing is
    left to resize."""
    pixels = smooth(128, 200).astype(float)
    rows = np.floor(pixels.reshape(128, 100, 2, 3).mean(axis=2) + 0.5)
    means = np.floor(rows.reshape(64, 2, 100, 3).mean(axis=1) + 0.5)
    assert np.array_equal(adm_center_crop(pixels.astype(np.uint8), 64), means[:, 18:82])


def test_adms_sizes_are_the_rounded_ones():
    """500 x 333 at 64: halved to 250 x 166 and 125 x 83, then 96 x 64."""
    pixels = smooth(333, 500)
    image = (
        Image.fromarray(pixels)
        .resize((250, 166), Image.Resampling.BOX)
        .resize((125, 83), Image.Resampling.BOX)
    )
    expected = np.array(image.resize((96, 64), Image.Resampling.BICUBIC))[:, 16:80]
    assert np.array_equal(adm_center_crop(pixels, 64), expected)


def test_celebas_crop_is_resized_as_torchs_antialiased_linear_filter_does():
    pixels = smooth(218, 178)
    crop = torch.from_numpy(pixels[39:179, 19:159].copy()).permute(2, 0, 1)[None].double()
    exact = torch.nn.functional.interpolate(
        crop, size=(64, 64), mode="bilinear", antialias=True, align_corners=False
    )[0].permute(1, 2, 0)
    found = score_sde_celeba(pixels, 64)
    assert np.abs(found - exact.numpy()).max() <= 0.5 + 1e-4  # rounded to the nearest


def test_celebas_crop_takes_the_centre_140_and_rounds_its_offsets_down():
    pixels = np.zeros((219, 179, 3), np.uint8)
    pixels[39:179, 19:159] = 200
    assert (score_sde_celeba(pixels, 64) == 200).all()
    pixels = np.full((219, 179, 3), 200, np.uint8)
    pixels[:39], pixels[179:], pixels[:, :19], pixels[:, 159:] = 0, 0, 0, 0
    assert (score_sde_celeba(pixels, 140) == 200).all()


def test_celebas_filter_keeps_a_ramp():
    """A linear ramp is a fixed point of a symmetric filter, away from the borders: each new pixel has the
    value at its centre."""
    ramp = np.broadcast_to(np.arange(140, dtype=np.uint8)[None, :, None], (140, 140, 1))
    centres = (np.arange(64) + 0.5) * 140 / 64 - 0.5
    assert np.array_equal(
        score_sde_celeba(np.ascontiguousarray(ramp), 64)[5, 3:61, 0], np.floor(centres + 0.5)[3:61]
    )


def test_ffhq_is_made_with_pils_lanczos_filter():
    pixels = smooth(256, 256)
    assert np.array_equal(
        lanczos(pixels, 64), np.array(Image.fromarray(pixels).resize((64, 64), Image.Resampling.LANCZOS))
    )


@pytest.mark.parametrize("how", ["none", "adm-center-crop", "score-sde-celeba", "lanczos"])
def test_grey_pictures_become_three_equal_channels(how):
    size = 64 if how == "none" else 150
    grey = smooth(size, size)[:, :, :1]
    found = prepare(grey, how, 64, 3)
    assert found.shape == (64, 64, 3) and (found == found[:, :, :1]).all()
    assert np.array_equal(prepare(grey, how, 64, 1), found[:, :, :1])
    assert np.array_equal(
        prepare(np.repeat(grey, 3, axis=2), how, 64, 3), found
    )  # as if it had been converted first


@pytest.mark.parametrize(
    ("pixels", "how", "says"),
    [
        (
            np.zeros((8, 8, 3), np.uint8),
            "none",
            r"expected 4 x 4, found 8 x 8 .* choose a preparation that resizes",
        ),
        (np.zeros((139, 200, 3), np.uint8), "score-sde-celeba", r"at least 140 x 140 .* found 139 x 200"),
        (np.zeros((8, 9, 3), np.uint8), "lanczos", r"expected a square picture for lanczos, found 8 x 9"),
        (np.zeros((8, 8, 3), np.float32), "lanczos", r"expected uint8 .* found float32"),
        (np.zeros((8, 8, 2), np.uint8), "lanczos", r"found uint8 of shape \(8, 8, 2\)"),
    ],
)
def test_a_picture_that_does_not_fit_says_what_would(pixels, how, says):
    with pytest.raises(ValueError, match=says):
        prepare(pixels, how, 4, 3)


def test_colour_is_refused_where_one_channel_is_wanted():
    with pytest.raises(
        ValueError, match="expected a grey picture, found one in colour; import with channels=3"
    ):
        prepare(np.eye(3, dtype=np.uint8)[None].repeat(3, 0), "none", 3, 1)


def test_three_equal_channels_are_read_as_one_where_one_is_wanted():
    grey = np.random.default_rng(0).integers(0, 256, (4, 4, 1), np.uint8)
    assert np.array_equal(prepare(grey.repeat(3, 2), "none", 4, 1), grey)

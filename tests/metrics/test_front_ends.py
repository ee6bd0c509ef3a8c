"""The three ways into the network against closed forms, torch-fidelity's interpolation and clean-fid's
resizer."""

import numpy as np
import pytest
import torch
from cleanfid.resize import build_resizer
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from dgflow.metrics.front_ends import prepare

FRONT_ENDS = ["adm", "edm", "clean"]


def _images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _grey_levels(prepared: torch.Tensor) -> np.ndarray:
    """[N, 299, 299, 3] in [0, 255]."""
    return prepared.permute(0, 2, 3, 1).double().numpy() * 128 + 128


@pytest.mark.parametrize("front_end", FRONT_ENDS)
@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 330), width=st.integers(1, 330), level=st.integers(0, 255))
def test_a_constant_image_of_any_size_stays_constant(front_end, height, width, level):
    prepared = prepare(np.full((1, height, width, 3), level, dtype=np.uint8), front_end)
    assert prepared.shape == (1, 3, 299, 299) and prepared.dtype == torch.float32
    np.testing.assert_allclose(prepared.numpy(), (level - 128) / 128, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("front_end", "atol"), [("adm", 2e-4), ("edm", 0.01)])
@pytest.mark.parametrize(("height", "width"), [(40, 80), (80, 40), (255, 17)])
def test_without_half_pixel_centres_a_ramp_is_read_at_multiples_of_its_length_over_299(
    front_end, atol, height, width
):
    down_HW, across_HW = np.indices((height, width))
    image = np.stack([down_HW, across_HW, np.zeros((height, width))], axis=-1).astype(np.uint8)
    down_S, across_S = (np.minimum(np.arange(299) * size / 299, size - 1) for size in (height, width))
    expected = np.stack([*np.meshgrid(down_S, across_S, indexing="ij"), np.zeros((299, 299))], axis=-1)
    found = _grey_levels(prepare(image[None], front_end))[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def test_the_clean_front_end_reads_a_ramp_at_the_pixels_centres():
    ramp = np.broadcast_to(np.arange(0, 240, 3, dtype=np.uint8)[None, :, None], (40, 80, 3))
    found = _grey_levels(prepare([ramp], "clean"))[
        0, :, 12:-12
    ]  # bicubic weights need two pixels to either side
    expected = 3 * ((np.arange(299) + 0.5) * 80 / 299 - 0.5)[12:-12]
    np.testing.assert_allclose(
        found, np.broadcast_to(expected[None, :, None], found.shape), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize(("height", "width"), [(32, 32), (61, 200), (298, 300), (512, 500), (1, 7)])
def test_the_adm_front_end_has_the_bits_of_torch_fidelitys(height, width):
    images = _images(3, height, width, 3)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    expected = (
        interpolate_bilinear_2d_like_tensorflow1x(x, size=(299, 299), align_corners=False) - 128
    ) / 128
    assert torch.equal(prepare(images, "adm"), expected)


def test_the_clean_front_end_has_the_bits_of_clean_fids():
    images = [_images(50, 80, 3, seed=1), _images(400, 320, 3, seed=2)]
    expected = [
        torch.from_numpy(build_resizer("clean")(image)).permute(2, 0, 1).sub(128).div(128) for image in images
    ]
    assert torch.equal(prepare(images, "clean"), torch.stack(expected))


@pytest.mark.parametrize(("front_end", "atol"), [("adm", 0), ("edm", 0.01), ("clean", 0)])
def test_images_of_the_networks_own_size_keep_their_grey_levels(front_end, atol):
    images = _images(2, 299, 299, 3)
    np.testing.assert_allclose(_grey_levels(prepare(images, front_end)), images, rtol=0, atol=atol)


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_an_image_is_prepared_the_same_alone_and_among_others_of_other_sizes(front_end):
    images = [
        _images(*shape, seed=seed)
        for seed, shape in enumerate([(32, 32, 3), (299, 299, 3), (32, 32, 3), (20, 45, 1), (64, 50, 3)])
    ]
    assert torch.equal(
        prepare(images, front_end), torch.cat([prepare([image], front_end) for image in images])
    )


@pytest.mark.parametrize("front_end", FRONT_ENDS)
@pytest.mark.parametrize("side", [28, 299])
def test_greyscale_is_repeated_to_three_channels(front_end, side):
    grey = _images(2, side, side, 1)
    assert torch.equal(prepare(grey, front_end), prepare(grey.repeat(3, axis=3), front_end))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 4), np.uint8), r"image 1: expected \[height, width, 3\].*found \[8, 8, 4\].*alpha"),
        (np.zeros((8, 8, 3), np.float32), "image 1: expected a uint8 array.*found float32"),
        (np.zeros((8, 0, 3), np.uint8), r"image 1: .*found \[8, 0, 3\]"),
        (np.zeros((8, 8), np.uint8), r"image 1: .*found \[8, 8\]"),
        ([[0]], "image 1: expected a uint8 array.*found list"),
    ],
)
def test_an_image_that_cannot_be_prepared_is_named(image, message):
    with pytest.raises(ValueError, match=message):
        prepare([_images(8, 8, 3), image], "adm")


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="at least 1 image"):
        prepare([], "adm")


def test_another_front_end_is_refused():
    with pytest.raises(ValueError, match="adm, edm, clean, found 'bilinear'"):
        prepare(_images(1, 8, 8, 3), "bilinear")  # pyright: ignore[reportArgumentType]

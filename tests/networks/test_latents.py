"""The wrapper around Stable Diffusion's autoencoder gives diffusers' numbers, scaled."""

import builtins
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from dgflow.networks.stable_diffusion.file import OLD_ATTENTION_NAMES, present_names
from dgflow.networks.stable_diffusion.module import StableDiffusionVAEModule
from dgflow.networks.stable_diffusion.spec import StableDiffusionVAE

IMAGES = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
LATENTS = torch.linspace(-0.5, 0.5, 2 * 4 * 8 * 8).reshape(2, 4, 8, 8)
SCALES = [0.18215, 0.5]
CONFIG: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "latent_channels": 4,
    "sample_size": 16,
}
CONFIG |= {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}


@pytest.fixture
def theirs() -> Any:
    torch.manual_seed(0)
    return AutoencoderKL(**CONFIG).eval()


def wrapped(theirs: Any, scale: float) -> StableDiffusionVAEModule:
    """A network of the same configuration with the same weights."""
    vae = StableDiffusionVAEModule.from_config(CONFIG, scale=scale)
    vae.autoencoder.load_state_dict(theirs.state_dict())
    return vae


@torch.no_grad()
@pytest.mark.parametrize("scale", SCALES)
def test_encoding_gives_the_moments_of_diffusers_times_the_scale(theirs: Any, scale: float) -> None:
    mean, std = wrapped(theirs, scale).encode(IMAGES)
    moments = theirs.quant_conv(theirs.encoder(IMAGES))
    torch.testing.assert_close(mean / scale, moments[:, :4])
    torch.testing.assert_close(std / scale, (moments[:, 4:] / 2).exp())


@torch.no_grad()
@pytest.mark.parametrize("scale", SCALES)
def test_decoding_gives_the_images_of_diffusers_for_unscaled_latents(theirs: Any, scale: float) -> None:
    images = wrapped(theirs, scale).decode(LATENTS * scale)
    torch.testing.assert_close(images, theirs.decode(LATENTS).sample)


@torch.no_grad()
def test_the_scale_cancels_between_encoding_and_decoding(theirs: Any) -> None:
    reconstructed = [
        vae.decode(vae.encode(IMAGES)[0]) for vae in (wrapped(theirs, scale) for scale in SCALES)
    ]
    torch.testing.assert_close(reconstructed[0], reconstructed[1])


@torch.no_grad()
def test_files_with_the_old_names_of_the_attention_are_read(theirs: Any) -> None:
    weights = theirs.state_dict()
    for old, new in OLD_ATTENTION_NAMES.items():
        weights = {name.replace(f".{new}.", f".{old}."): tensor for name, tensor in weights.items()}
    assert any(".query." in name for name in weights) and not any(".to_" in name for name in weights)
    theirs.load_state_dict(present_names(weights))  # strict: no name is missing or left over


def test_the_published_configuration_has_the_published_size() -> None:
    with torch.device("meta"):
        vae: Any = StableDiffusionVAE().build(image_size=256, channels=3, num_classes=0)
    assert sum(parameter.numel() for parameter in vae.parameters()) == 83_653_863
    assert vae.encode(torch.zeros(1, 3, 256, 256, device="meta"))[0].shape == (1, 4, 32, 32)


def test_without_diffusers_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def no_diffusers(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "diffusers":
            raise ModuleNotFoundError("No module named 'diffusers'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_diffusers)
    with pytest.raises(ImportError, match=r"pip install 'dgflow\[dit\]'"):
        StableDiffusionVAEModule.from_config(CONFIG)

"""The wrapper around Stable Diffusion's autoencoder gives diffusers' numbers, scaled, from files that are at hand."""

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file, save_file

from dgflow.networks.latents import OLD_ATTENTION_NAMES, PUBLISHED_CONFIG, StableDiffusionVAE

IMAGES = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
LATENTS = torch.linspace(-0.5, 0.5, 2 * 4 * 8 * 8).reshape(2, 4, 8, 8)
SCALES = [0.18215, 0.5]


@pytest.fixture
def theirs() -> Any:
    torch.manual_seed(0)
    config: dict[str, Any] = {"block_out_channels": (8, 16), "norm_num_groups": 4, "latent_channels": 4, "sample_size": 16}
    config |= {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(**config).eval()


@pytest.fixture
def folder(theirs: Any, tmp_path: Path) -> Path:
    theirs.save_pretrained(tmp_path)
    return tmp_path


@torch.no_grad()
@pytest.mark.parametrize("scale", SCALES)
def test_encoding_gives_the_moments_of_diffusers_times_the_scale(theirs: Any, folder: Path, scale: float) -> None:
    mean, std = StableDiffusionVAE.from_folder(folder, scale=scale).encode(IMAGES)
    moments = theirs.quant_conv(theirs.encoder(IMAGES))
    torch.testing.assert_close(mean / scale, moments[:, :4])
    torch.testing.assert_close(std / scale, (moments[:, 4:] / 2).exp())


@torch.no_grad()
@pytest.mark.parametrize("scale", SCALES)
def test_decoding_gives_the_images_of_diffusers_for_unscaled_latents(theirs: Any, folder: Path, scale: float) -> None:
    images = StableDiffusionVAE.from_folder(folder, scale=scale).decode(LATENTS * scale)
    torch.testing.assert_close(images, theirs.decode(LATENTS).sample)


@torch.no_grad()
def test_the_scale_cancels_between_encoding_and_decoding(folder: Path) -> None:
    reconstructed = [vae.decode(vae.encode(IMAGES)[0]) for vae in (StableDiffusionVAE.from_folder(folder, scale=scale) for scale in SCALES)]
    torch.testing.assert_close(reconstructed[0], reconstructed[1])


@torch.no_grad()
def test_files_with_the_old_names_of_the_attention_are_read(theirs: Any, folder: Path) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    for old, new in OLD_ATTENTION_NAMES.items():
        weights = {name.replace(f".{new}.", f".{old}."): tensor for name, tensor in weights.items()}
    assert any(".query." in name for name in weights) and not any(".to_" in name for name in weights)
    save_file(weights, path)
    torch.testing.assert_close(StableDiffusionVAE.from_folder(folder).decode(LATENTS * 0.18215), theirs.decode(LATENTS).sample)


@torch.no_grad()
def test_a_state_dict_with_its_configuration_gives_the_same_as_the_folder(theirs: Any, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    ours = StableDiffusionVAE.from_state_dict(config, theirs.state_dict(), source="memory")
    assert torch.equal(ours.decode(LATENTS), StableDiffusionVAE.from_folder(folder).decode(LATENTS))


def test_the_published_configuration_has_the_published_size() -> None:
    with torch.device("meta"):
        autoencoder: Any = AutoencoderKL(**PUBLISHED_CONFIG)
    assert sum(parameter.numel() for parameter in autoencoder.parameters()) == 83_653_863
    assert autoencoder.encode(torch.zeros(1, 3, 256, 256, device="meta")).latent_dist.mean.shape == (1, 4, 32, 32)


def test_a_folder_without_weights_is_refused_by_name(folder: Path) -> None:
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"diffusion_pytorch_model\.safetensors"):
        StableDiffusionVAE.from_folder(folder)


def test_weights_of_another_size_are_refused(theirs: Any, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"latent_channels": 3}
    with pytest.raises(ValueError, match="misshaped"):
        StableDiffusionVAE.from_state_dict(config, theirs.state_dict(), source="memory")


def test_without_diffusers_the_error_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def no_diffusers(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "diffusers":
            raise ModuleNotFoundError("No module named 'diffusers'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_diffusers)
    with pytest.raises(ImportError, match="pip install"):
        StableDiffusionVAE.from_folder(folder)

"""The Stable Diffusion autoencoders of DiT's latents, which have an eighth of the image's side and 4
channels, and are scaled by 0.18215."""

from __future__ import annotations

from dgflow.networks.published import Published, PublishedFile
from dgflow.networks.stable_diffusion.spec import StableDiffusionVAE


def _file(kind: str, commit: str) -> PublishedFile:
    repo, file_name = f"stabilityai/sd-vae-ft-{kind}", "diffusion_pytorch_model.safetensors"
    return PublishedFile(
        name=f"sd-vae-ft-{kind}",
        file_name=file_name,
        source=f"hf:{repo}/{file_name}@{commit}",
        format="safetensors",
        network={"": Published(StableDiffusionVAE(), 256)},
        licence="MIT",
        page=f"https://huggingface.co/{repo}",
        image_size=256,
    )


MSE = _file("mse", "ad7ac2cf88578c68f660449f60fe9496f35a1cbf")
FILES = (_file("ema", "8937891f91ef6e9946cb7cf1b2e0207b1d8180bf"), MSE)

"""Toy networks of diffusers and a toy discriminator, all with random weights."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddim.pipeline_ddim import DDIMPipeline
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from diffusers.pipelines.dit.pipeline_dit import DiTPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from dgflow.diffusion.discrete import DiscreteSchedule, respaced_timesteps
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
from dgflow.diffusion.guidance_settings import DiscriminatorSettings
from dgflow.networks.adm.spec import ADMEncoder
from dgflow.networks.discriminator.spec import Discriminator

CLASSES = 1000  # DiTPipeline's null class is label 1000
STEPS = 5
BETAS: dict[str, Any] = {"beta_start": 1e-4, "beta_end": 2e-3}
"""Up to sigma = 1.4, so that samples of networks that know nothing stay small."""
SCHEDULE = DiscreteSchedule(
    tuple(torch.linspace(1e-4, 2e-3, 1000, dtype=torch.float64).tolist()),
    respaced_timesteps(1000, f"ddim{STEPS}"),
)
DISCRIMINATOR = Discriminator(
    head=ADMEncoder(
        model_channels=32, num_res_blocks=1, attention_resolutions=(), channel_mult=(1,), num_head_channels=32
    )
)


def unet(side: int = 4) -> UNet2DModel:
    torch.manual_seed(0)
    blocks: dict[str, Any] = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    sizes: dict[str, Any] = {"block_out_channels": (8,), "norm_num_groups": 4, "layers_per_block": 1}
    network = UNet2DModel(sample_size=side, in_channels=3, out_channels=3, **sizes, **blocks)
    return network.eval()


def ddpm_pipeline(side: int = 4, **config: Any) -> DDPMPipeline:
    return quiet(DDPMPipeline(unet(side), DDPMScheduler(**BETAS, **config)))


def ddim_pipeline(**config: Any) -> DDIMPipeline:
    scheduler: Any = DDIMScheduler(**BETAS, **config)
    return quiet(DDIMPipeline(unet(), scheduler))


def dit_pipeline(side: int = 4, **config: Any) -> DiTPipeline:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1}
    transformer = DiTTransformer2DModel(in_channels=4, out_channels=8, sample_size=side, **sizes).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in transformer.parameters():  # the last layers begin as zeros
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
        parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=side)
    scheduler: Any = DDIMScheduler(clip_sample=False, **BETAS, **config)
    return quiet(DiTPipeline(transformer, vae.eval(), scheduler))


def discriminator(channels: int, classes: int = 0, side: int = 4) -> nn.Module:
    torch.manual_seed(1)
    network = DISCRIMINATOR.build(image_size=side, channels=channels, num_classes=classes)
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():  # the last layers begin as zeros
            nn.init.normal_(parameter, std=1.0)
    return network.eval().requires_grad_(False)


def term(channels: int, classes: int = 0, **settings: Any) -> DiscriminatorTerm:
    """Guidance of samples of side 4, strong enough to be seen."""
    return DiscriminatorTerm(
        discriminator(channels, classes), DiscriminatorSettings(**{"weight": 50.0, **settings})
    )


def generators(count: int) -> list[torch.Generator]:
    """One per sample, so that a sample's noise does not depend on its batch."""
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def normals(shape: tuple[int, ...], steps: int) -> list[Tensor]:
    """The numbers that `generators` give a pipeline: latents [B, ...], then the noise of every step."""
    count, *rest = shape
    drawn = [[torch.randn(1, *rest, generator=one) for _ in range(steps + 1)] for one in generators(count)]
    return [torch.cat(step) for step in zip(*drawn, strict=True)]


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline

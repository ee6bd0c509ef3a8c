"""EDM's networks as recipes name them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from dgflow.networks.roles import ScoreNetworkSpec
from dgflow.networks.toy import capped, divided

if TYPE_CHECKING:
    from torch import nn

    from dgflow.diffusion.score_model import ScoreModel

Precond = Literal["edm", "vp", "ve", "iddpm"]


class SongUNet(ScoreNetworkSpec):
    """EDM's U-Net (DDPM++ as `positional`/`standard`, NCSN++ as `fourier`/`residual`) under one of EDM's
    preconditioners.

    `attn_resolutions` are image sides in pixels. Image side and channels come from the data.
    """

    formats: ClassVar[tuple[str, ...]] = ("edm_pickle",)

    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    num_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.1
    embedding_type: Literal["positional", "fourier"] = "positional"
    encoder_type: Literal["standard", "skip", "residual"] = "standard"
    decoder_type: Literal["standard", "skip"] = "standard"
    channel_mult_noise: int = 1
    resample_filter: tuple[int, ...] = (1, 1)
    augment_dim: int = 0
    precond: Precond = "edm"
    sigma_data: float = 0.5  # of the EDM preconditioner

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """A denoiser D(x, sigma, class_labels) with fresh weights; `num_classes` 0 for an unconditional one."""
        from dgflow.networks.edm.song import SongUNet as Network

        options = self.model_dump(exclude={"sigma_data", "precond"})
        return _preconditioned(
            Network(img_resolution=image_size, img_channels=channels, label_dim=num_classes, **options),
            self.precond,
            self.sigma_data,
        )

    def score_model(self, network: nn.Module) -> ScoreModel:
        """How samplers ask `network`."""
        return _edm_score_model(network)

    def toy(self, factor: int) -> Self:
        return self.model_copy(
            update={
                "model_channels": min(16, self.model_channels),
                "num_blocks": 1,
                "attn_resolutions": divided(self.attn_resolutions, factor),
            }
        )


class DhariwalUNet(ScoreNetworkSpec):
    """EDM's port of ADM's U-Net; `edm-imagenet-64x64-cond-adm` has the defaults.

    `attn_resolutions` are image sides in pixels.
    """

    formats: ClassVar[tuple[str, ...]] = ("edm_pickle",)

    model_channels: int = 192
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    num_blocks: int = 3
    attn_resolutions: tuple[int, ...] = (32, 16, 8)
    dropout: float = 0.1
    augment_dim: int = 0
    precond: Precond = "edm"
    sigma_data: float = 0.5

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """A denoiser D(x, sigma, class_labels) with fresh weights; `num_classes` 0 for an unconditional one."""
        from dgflow.networks.edm.dhariwal import DhariwalUNet as Network

        options = self.model_dump(exclude={"sigma_data", "precond"})
        out_channels = 2 * channels if self.precond == "iddpm" else channels
        network = Network(
            img_resolution=image_size,
            img_channels=channels,
            label_dim=num_classes,
            out_channels=out_channels,
            **options,
        )
        return _preconditioned(network, self.precond, self.sigma_data)

    def score_model(self, network: nn.Module) -> ScoreModel:
        """How samplers ask `network`."""
        return _edm_score_model(network)

    def toy(self, factor: int) -> Self:
        return self.model_copy(
            update={
                "model_channels": 64,  # its heads have 64 channels
                "channel_mult": capped(self.channel_mult, 1),
                "num_blocks": 1,
                "attn_resolutions": divided(self.attn_resolutions, factor),
            }
        )


def _preconditioned(network: nn.Module, precond: Precond, sigma_data: float) -> nn.Module:
    from dgflow.networks.edm import preconditioners as edm

    if precond == "edm":
        return edm.EDMPrecond(network, sigma_data=sigma_data)  # type: ignore[arg-type]
    return {"vp": edm.VPPrecond, "ve": edm.VEPrecond, "iddpm": edm.iDDPMPrecond}[precond](network)  # type: ignore[arg-type]


def _edm_score_model(network: nn.Module) -> ScoreModel:
    from dgflow.diffusion.score_model import ScoreModel
    from dgflow.networks.edm import preconditioners as edm

    assert isinstance(network, edm.EDMPrecond | edm.VPPrecond | edm.VEPrecond | edm.iDDPMPrecond)
    rounds = network.round_sigma if isinstance(network, edm.iDDPMPrecond) else None
    return ScoreModel(network, round_sigma=rounds, sigma_range=(network.sigma_min, network.sigma_max))

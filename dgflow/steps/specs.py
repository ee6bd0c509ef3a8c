"""What recipes say about networks, samplers and guidance: plain frozen values, turned into torch objects by `build` only where they run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from dgflow.steps.step import Spec, Weights

if TYPE_CHECKING:
    from dgflow.networks import adm, edm


class SongUNet(Spec):
    """EDM's U-Net (DDPM++ as `positional`/`standard`, NCSN++ as `fourier`/`residual`) under EDM preconditioning.

    `attn_resolutions` are image sides in pixels. Image side and channels come from the data.
    """

    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    num_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.1
    embedding_type: str = "positional"
    encoder_type: str = "standard"
    decoder_type: str = "standard"
    channel_mult_noise: int = 1
    resample_filter: tuple[int, ...] = (1, 1)
    sigma_data: float = 0.5

    def build(self, *, image_size: int, channels: int, num_classes: int) -> edm.EDMPrecond:
        """A denoiser D(x, sigma, class_labels) with fresh weights; `num_classes` 0 for an unconditional one."""
        from dgflow.networks.edm import EDMPrecond
        from dgflow.networks.song import SongUNet as Network

        options = self.model_dump(exclude={"sigma_data"})
        network = Network(img_resolution=image_size, img_channels=channels, label_dim=num_classes, **options)
        return EDMPrecond(network, sigma_data=self.sigma_data)


class ADMEncoder(Spec):
    """ADM's encoder half: the noise-conditioned classifier, the discriminator, and with `pool="adaptive"` a feature network.

    `attention_resolutions` are downsampling factors (1 is the full image). Widths have to be multiples of 32.
    """

    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1,)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (1,)
    num_head_channels: int = 64
    pool: str = "attention"

    def build(self, *, image_size: int, in_channels: int, out_channels: int, num_classes: int | None = None) -> adm.ADMEncoder:
        """The network with fresh weights; `num_classes` rows of label embedding, None for an unconditional one."""
        from dgflow.networks.adm import ADMEncoder as Network

        return Network(
            image_size=image_size, in_channels=in_channels, out_channels=out_channels, num_classes=num_classes, **self.model_dump()
        )


class Heun(Spec):
    """EDM's second-order sampler (Karras et al. 2022, Algorithm 2); 2 * steps - 1 evaluations of the denoiser."""

    steps: int = Field(default=18, gt=1)
    sigma_min: float = Field(default=0.002, gt=0)
    sigma_max: float = Field(default=80.0, gt=0)
    rho: float = 7.0
    S_churn: float = 0.0
    S_min: float = 0.0
    S_max: float | None = None  # None: no upper end
    S_noise: float = 1.0

    @property
    def nfe(self) -> int:
        return 2 * self.steps - 1

    def keywords(self) -> dict[str, Any]:
        """Keyword arguments of `dgflow.diffusion.samplers.heun` beside the schedule."""
        return {
            "S_churn": self.S_churn,
            "S_min": self.S_min,
            "S_max": float("inf") if self.S_max is None else self.S_max,
            "S_noise": self.S_noise,
        }


class Boost(Spec):
    """The published adaptive boost: on every `period`-th step, samples that look fake get `weight` times the guidance and, on every
    `churn_period`-th step, `S_churn` (algorithm of EDM-G++, Kim et al. 2023)."""

    period: int = 2
    weight: float = 2.0
    churn_period: int = 5
    S_churn: float = 4.0
    S_noise: float = 1.0


class DiscriminatorGuidance(Spec):
    """Adds the gradient of the discriminator's log-ratio to the score while `tau_min` <= tau <= `tau_max` (linear-VP time).

    `weight` acts in the predictor of Heun's step, `second_order_weight` in its corrector. With an exact ratio (1, 1) is right; (2, 0), the
    published choice for CIFAR-10, has about the same effect.
    """

    discriminator: Weights
    weight: float = 1.0
    second_order_weight: float = 0.0
    tau_min: float = Field(default=0.01, ge=0, le=1)
    tau_max: float = Field(default=1.0, ge=0, le=1)
    boost: Boost | None = None

"""What recipes say about networks: plain frozen values, turned into torch modules by `build` only where they run.

The names are those of the networks in `dgflow.networks`. A score network's spec also says how samplers may ask it (`score_model`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from dgflow.steps.own_networks import OwnDenoiser
from dgflow.steps.step import NetworkStep, Spec, Weights

if TYPE_CHECKING:
    from torch import nn

    from dgflow.diffusion.score_model import ScoreModel
    from dgflow.diffusion.times import TimeMap
    from dgflow.networks import adm

UNBOUNDED_CONSTANT = 0.001
"""The stabilizing constant of Soft Truncation's configurations."""

Precond = Literal["edm", "vp", "ve", "iddpm"]
TimeName = Literal["linear-vp", "cosine-vp", "ddpm-linear", "ddpm-cosine"]
"""What a network is told for a noise level: time in [0, 1] of the linear or the cosine schedule, or the step 0..999 of a DDPM schedule."""


def time_map(name: TimeName) -> TimeMap:
    """The function of sigma that `name` stands for."""
    from dgflow.diffusion.discrete import DiscreteSchedule
    from dgflow.diffusion.times import cosine_from_sigma, tau_from_sigma

    if name == "linear-vp":
        return tau_from_sigma
    return cosine_from_sigma if name == "cosine-vp" else DiscreteSchedule.of(name.removeprefix("ddpm-")).timesteps_from_sigma()


class SongUNet(Spec):
    """EDM's U-Net (DDPM++ as `positional`/`standard`, NCSN++ as `fourier`/`residual`) under one of EDM's preconditioners.

    `attn_resolutions` are image sides in pixels. Image side and channels come from the data.
    """

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
        from dgflow.networks.song import SongUNet as Network

        options = self.model_dump(exclude={"sigma_data", "precond"})
        return _preconditioned(
            Network(img_resolution=image_size, img_channels=channels, label_dim=num_classes, **options), self.precond, self.sigma_data
        )

    def score_model(self, network: nn.Module) -> ScoreModel:
        """How samplers ask `network`."""
        return _edm_score_model(network)


class DhariwalUNet(Spec):
    """EDM's port of ADM's U-Net; `edm-imagenet-64x64-cond-adm` has the defaults. `attn_resolutions` are image sides in pixels."""

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
        from dgflow.networks.dhariwal import DhariwalUNet as Network

        options = self.model_dump(exclude={"sigma_data", "precond"})
        out_channels = 2 * channels if self.precond == "iddpm" else channels
        network = Network(img_resolution=image_size, img_channels=channels, label_dim=num_classes, out_channels=out_channels, **options)
        return _preconditioned(network, self.precond, self.sigma_data)

    def score_model(self, network: nn.Module) -> ScoreModel:
        """How samplers ask `network`."""
        return _edm_score_model(network)


class ADMUNet(Spec):
    """ADM's U-Net of Dhariwal & Nichol 2021, which predicts noise and the variance of the reverse step on a discrete schedule.

    `attention_resolutions` are downsampling factors. The defaults are those of `256x256_diffusion`.
    """

    model_channels: int = 256
    channel_mult: tuple[float, ...] = (1, 1, 2, 2, 4, 4)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (8, 16, 32)
    num_head_channels: int | None = 64
    num_heads: int = 4  # where num_head_channels is None
    use_scale_shift_norm: bool = True
    resblock_updown: bool = True
    new_attention_order: bool = False
    dropout: float = 0.0
    learn_sigma: bool = True
    schedule: Literal["linear", "cosine"] = "linear"

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """The network with fresh weights; `num_classes` 0 for an unconditional one."""
        from dgflow.networks.adm_unet import ADMUNet as Network

        return Network(
            image_size=image_size,
            in_channels=channels,
            out_channels=(2 if self.learn_sigma else 1) * channels,
            num_classes=num_classes or None,
            **self.model_dump(exclude={"learn_sigma", "schedule"}),
        )

    def score_model(self, network: nn.Module) -> ScoreModel:
        """How samplers ask `network`."""
        return _discrete_score_model(network, self.schedule, learn_sigma=self.learn_sigma, null_label=None)


class DiT(Spec):
    """Diffusion transformer of Peebles & Xie 2023 on latents; DiT-XL/2 by default. It knows a class more than the data, the null class."""

    patch_size: int = 2
    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    mlp_ratio: float = 4.0
    learn_sigma: bool = True

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """The network with fresh weights; `image_size` is the side of the latent."""
        from dgflow.networks.dit import DiT as Network

        return Network(input_size=image_size, in_channels=channels, num_classes=num_classes, **self.model_dump())

    def score_model(self, network: nn.Module) -> ScoreModel:
        """How samplers ask `network`."""
        from dgflow.networks.dit import DiT as Network

        assert isinstance(network, Network)
        model = _discrete_score_model(network, "linear", learn_sigma=self.learn_sigma, null_label=network.null_label)
        return replace(model, latent=True)


class NCSNpp(Spec):
    """score_sde's DDPM++ as Soft Truncation uses it for CelebA and CIFAR-10: it predicts the noise of the linear-VP diffusion.

    `unbounded`: the time of its "u" models, log(sigma^2 / (1 + sigma^2) + 0.001) + log(1 + sigma^2) from time 1e-5 to 1, scaled to 0..999.
    """

    nf: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.1
    fir: bool = False
    progressive_input: Literal["none", "input_skip"] = "none"
    embedding_dim: int | None = None  # None: nf
    unbounded: bool = False

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """The network with fresh weights."""
        from dgflow.networks.ncsnpp import NCSNpp as Network

        _unconditional("NCSNpp", num_classes)
        return Network(image_size=image_size, num_channels=channels, **self.model_dump(exclude={"unbounded"}))

    def score_model(self, network: nn.Module) -> ScoreModel:
        """How samplers ask `network`."""
        import torch

        from dgflow.diffusion.denoisers import VPDenoiser, epsilon_only
        from dgflow.diffusion.score_model import ScoreModel
        from dgflow.diffusion.times import sigma_from_tau, tau_from_sigma

        # Its own range in time is [1e-5, 1].
        levels = (sigma_from_tau(1e-5), sigma_from_tau(1.0))

        def unbounded(sigma: torch.Tensor) -> torch.Tensor:
            integral = torch.log1p(sigma.square())
            return torch.log(-torch.expm1(-integral) + UNBOUNDED_CONSTANT) + integral

        def told(sigma: torch.Tensor) -> torch.Tensor:
            if not self.unbounded:
                return 999.0 * tau_from_sigma(sigma)
            low, high = (unbounded(torch.full_like(sigma, level)) for level in levels)
            return 999.0 * (unbounded(sigma) - low) / (high - low)

        return ScoreModel(VPDenoiser(epsilon_only(network), told), sigma_range=levels)


class LSGMPrior(Spec):
    """LSGM's latent prior with its mixed parametrisation; the defaults are those of the CIFAR-10 model with the best FID."""

    num_channels: int = 512
    ch_mult: tuple[int, ...] = (1, 1, 1)
    num_res_blocks: int = 8
    attn_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.2
    fir: bool = True
    embedding_dim: int = 128
    embedding_scale: float = 1000.0

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """The network with fresh weights; `image_size` and `channels` are those of the latent."""
        from dgflow.networks.lsgm_prior import LSGMPrior as Network

        _unconditional("LSGMPrior", num_classes)
        return Network(image_size=image_size, num_input_channels=channels, **self.model_dump())

    def score_model(self, network: nn.Module) -> ScoreModel:
        """How samplers ask `network`."""
        from dgflow.diffusion.denoisers import VPDenoiser
        from dgflow.diffusion.score_model import ScoreModel
        from dgflow.diffusion.times import mean_std, sigma_from_tau, tau_from_sigma
        from dgflow.networks.lsgm_prior import LSGMPrior as Network

        assert isinstance(network, Network)
        prior = network
        return ScoreModel(
            VPDenoiser(lambda y, tau, labels: (prior.epsilon(y, tau, mean_std(tau)[1].square()), None), tau_from_sigma),
            sigma_range=(sigma_from_tau(1e-6), sigma_from_tau(1.0)),
            latent=True,
        )


class DDPMUNet(Spec):
    """DDPM's U-Net (Ho et al. 2020) as in SDEdit's checkpoints: noise at a step of the linear schedule. `attn_resolutions` are sides."""

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.0

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """The network with fresh weights."""
        from dgflow.networks.ddpm_unet import DDPMUNet as Network

        _unconditional("DDPMUNet", num_classes)
        return Network(image_size=image_size, in_channels=channels, **self.model_dump())

    def score_model(self, network: nn.Module) -> ScoreModel:
        """How samplers ask `network`."""
        return _discrete_score_model(network, "linear", learn_sigma=False, null_label=None)


ScoreNetwork = SongUNet | DhariwalUNet | ADMUNet | DiT | NCSNpp | LSGMPrior | DDPMUNet | OwnDenoiser
LATENT = (DiT, LSGMPrior)
"""Those whose samples are latents."""


class ADMEncoder(Spec):
    """ADM's encoder half: the noise-conditioned classifier, the discriminator, and with `pool="adaptive"` a feature network.

    `attention_resolutions` are downsampling factors (1 is the full image). Widths have to be multiples of 32. `time` is what the network
    is told: published 256-pixel and latent classifiers know DDPM's steps, the 64-pixel one the cosine schedule.
    """

    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1,)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (1,)
    num_head_channels: int = 64
    pool: Literal["attention", "adaptive"] = "attention"
    time: TimeName = "linear-vp"

    def build(self, *, image_size: int, in_channels: int, out_channels: int, num_classes: int | None = None) -> adm.ADMEncoder:
        """The network with fresh weights; `num_classes` rows of label embedding, None for an unconditional one."""
        from dgflow.networks.adm import ADMEncoder as Network

        return Network(
            image_size=image_size,
            in_channels=in_channels,
            out_channels=out_channels,
            num_classes=num_classes,
            time_scale=1.0 if self.time.startswith("ddpm") else 999.0,
            **self.model_dump(exclude={"time"}),
        )


class Discriminator(Spec):
    """A head, with one output, on the middle features of a frozen noisy classifier, or on the samples themselves.

    With features, the time that both are told is the features' own, and the head's `time` has to be left alone.
    """

    head: ADMEncoder = ADMEncoder()
    features: Weights | None = None

    @model_validator(mode="after")
    def _one_time(self) -> Discriminator:
        if self.features is not None and self.head.time not in ("linear-vp", time_of(self.features.step)):
            raise ValueError(f"expected the head's time to be that of its features, {time_of(self.features.step)}, found {self.head.time}")
        return self

    def build(self, features: nn.Module | None, *, image_size: int, in_channels: int, num_classes: int | None) -> nn.Module:
        """The discriminator with a fresh head; size and channels are those of the samples, the head's follow from the features."""
        from dgflow.networks.adm import ADMEncoder as Encoder
        from dgflow.networks.discriminator import Discriminator as Network

        assert features is None or isinstance(features, Encoder)
        # One time goes to both, in the unit of the features.
        told = self.head if self.features is None else self.head.model_copy(update={"time": time_of(self.features.step)})
        head = told.build(
            image_size=features.feature_size if features else image_size,
            in_channels=features.feature_channels if features else in_channels,
            out_channels=1,
            num_classes=num_classes,
        )
        return Network(features, head)


class InceptionV3(Spec):
    """The 2015-12-05 Inception network that FID is defined by. It judges images and neither samples nor guides."""

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        from dgflow.metrics.inception import InceptionV3 as Network

        if (image_size, channels, num_classes) != (299, 3, 1008):
            raise ValueError(f"Inception takes 299 pixels and 3 channels to 1008 classes: found {image_size}, {channels} and {num_classes}")
        return Network()


def time_of(step: NetworkStep) -> TimeName:
    """What a classifier or discriminator is told for a noise level: what its frozen features were trained with, if it has any."""
    network = getattr(step, "network", None)
    features = network.features if isinstance(network, Discriminator) else getattr(step, "features", None)
    if isinstance(features, Weights):
        return time_of(features.step)
    if isinstance(network, Discriminator):
        return network.head.time
    if not isinstance(network, ADMEncoder):
        raise ValueError(f"expected a classifier or a discriminator (an ADMEncoder), found {step.kind}")
    return network.time


def _preconditioned(network: nn.Module, precond: Precond, sigma_data: float) -> nn.Module:
    from dgflow.networks import edm

    if precond == "edm":
        return edm.EDMPrecond(network, sigma_data=sigma_data)  # type: ignore[arg-type]
    return {"vp": edm.VPPrecond, "ve": edm.VEPrecond, "iddpm": edm.iDDPMPrecond}[precond](network)  # type: ignore[arg-type]


def _edm_score_model(network: nn.Module) -> ScoreModel:
    from dgflow.diffusion.score_model import ScoreModel
    from dgflow.networks import edm

    assert isinstance(network, edm.EDMPrecond | edm.VPPrecond | edm.VEPrecond | edm.iDDPMPrecond)
    rounds = network.round_sigma if isinstance(network, edm.iDDPMPrecond) else None
    return ScoreModel(network, round_sigma=rounds, sigma_range=(network.sigma_min, network.sigma_max))


def _discrete_score_model(
    network: nn.Module, betas: Literal["linear", "cosine"], *, learn_sigma: bool, null_label: int | None
) -> ScoreModel:
    from dgflow.diffusion.denoisers import VPDenoiser, epsilon_only, learned_range
    from dgflow.diffusion.discrete import DiscreteSchedule
    from dgflow.diffusion.score_model import ScoreModel

    predictor, schedule = (learned_range if learn_sigma else epsilon_only)(network), DiscreteSchedule.of(betas)
    return ScoreModel(
        VPDenoiser(predictor, schedule.timesteps_from_sigma()),
        predictor,
        schedule,
        null_label,
        sigma_range=(schedule.sigmas[0], schedule.sigmas[-1]),
    )


def _unconditional(name: str, num_classes: int) -> None:
    if num_classes:
        raise ValueError(f"{name} has no classes: expected num_classes=0, found {num_classes}")

"""Specs of LSGM's prior and of its autoencoder NVAE, for recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from dgflow.networks.checks import check_halvings, check_unconditional, check_unet_widths, halved
from dgflow.networks.roles import AutoencoderSpec, ScoreNetworkSpec
from dgflow.networks.toy import divided
from dgflow.specs.network import TOY_GROUPS, TOY_PER_GROUP, DataShape, NetworkSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dgflow.diffusion.score_model import ScoreModel
    from dgflow.weights.declared import Said
    from dgflow.weights.weight_file import File, WeightFile


class _InCheckpoint(NetworkSpec):
    """One of the two networks in LSGM's checkpoints."""

    formats: ClassVar[tuple[str, ...]] = ("lsgm",)
    shares_files: ClassVar[bool] = True

    def write_published(
        self, format: str, network: Any, shape: DataShape, others: Sequence[tuple[NetworkSpec, Any]]
    ) -> bytes:
        from dgflow.networks.lsgm.file import write_lsgm

        parts = [(self, network), *others]
        arguments = {name: value for spec, _ in parts for name, value in spec.model_dump().items()}
        prior = next((part for spec, part in parts if isinstance(spec, LSGMPrior)), None)
        vae = next((part for spec, part in parts if isinstance(spec, NVAE)), None)
        return write_lsgm(
            {} if prior is None else prior.state_dict(),
            [] if prior is None else prior.ema_names(),
            {} if vae is None else vae.state_dict(),
            arguments,
        )


class LSGMPrior(_InCheckpoint, ScoreNetworkSpec):
    """LSGM's latent prior with its mixed parametrisation; the defaults are the CIFAR-10 model with the best
    FID.
    """

    gives_latents: ClassVar[bool] = True

    num_channels: int = 512
    ch_mult: tuple[int, ...] = (1, 1, 1)
    num_res_blocks: int = 8
    attn_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.2
    fir: bool = True
    embedding_dim: int = 128
    embedding_scale: float = 1000.0

    def check(self, shape: DataShape) -> None:
        check_unconditional("LSGMPrior", shape.num_classes)
        check_halvings(shape.image_size, len(self.ch_mult))
        widths = [self.num_channels * mult for mult in self.ch_mult]
        check_unet_widths(self.num_channels, widths, self.num_res_blocks)

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """Build the network with fresh weights; `image_size` and `channels` are the latent's."""
        from dgflow.networks.lsgm.prior import LSGMPriorModule

        check_unconditional("LSGMPrior", num_classes)
        return LSGMPriorModule(image_size=image_size, num_input_channels=channels, **self.model_dump())

    def score_model(self, network: Any) -> ScoreModel:
        from dgflow.diffusion.denoisers import VPDenoiser
        from dgflow.diffusion.score_model import ScoreModel
        from dgflow.diffusion.times import mean_std, sigma_from_tau, tau_from_sigma

        return ScoreModel(
            VPDenoiser(
                lambda y, tau, labels: (network.epsilon(y, tau, mean_std(tau)[1].square()), None),
                tau_from_sigma,
            ),
            sigma_range=(sigma_from_tau(1e-6), sigma_from_tau(1.0)),
            latent=True,
        )

    def toy(self, factor: int) -> Self:
        return self.model_copy(
            update={
                "num_channels": 32,
                "num_res_blocks": 1,
                "embedding_dim": 32,
                "attn_resolutions": divided(self.attn_resolutions, factor),
            }
        )

    def read_published(
        self, file: File, format: str, network: Any, shape: DataShape, source: str
    ) -> WeightFile:
        from dgflow.networks.lsgm.file import read_lsgm

        return read_lsgm(file, "prior", network.ema_names(), source=source)

    def said(self, network: Any, shape: DataShape) -> dict[str, Said]:
        """The settings by the names of LSGM's `args`, including those that this prior does not have."""
        from dgflow.weights.declared import Said

        names = {
            "num_channels_dae": "num_channels",
            "num_cell_per_scale_dae": "num_res_blocks",
            "fir": "fir",
            "embedding_dim": "embedding_dim",
            "embedding_scale": "embedding_scale",
        }
        fixed = {
            "embedding_type": "positional",
            "mixed_prediction": True,
            "progressive": "none",
            "progressive_input": "none",
            "sde_type": "vpsde",
            "beta_start": 0.1,
            "beta_end": 20.0,
        }
        return {
            **{name: Said(getattr(self, field), field) for name, field in names.items()},
            **{name: Said(value, None) for name, value in fixed.items()},
            "num_scales_dae": Said(len(self.ch_mult), "ch_mult"),
            "latent_channels": Said(shape.channels, "channels"),
        }

    def declared(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        fields = super().declared(settings)
        groups, per_group = fields.get("num_groups_per_scale"), fields.get("num_latent_per_group")
        if isinstance(groups, int) and isinstance(per_group, int) and fields.get("num_latent_scales", 1) == 1:
            fields["latent_channels"] = groups * per_group
        return fields


class NVAE(_InCheckpoint, AutoencoderSpec):
    """LSGM's hierarchical VAE with one scale of latents; the defaults are the CIFAR-10 model with the best
    FID.
    """

    latent_columns: ClassVar[tuple[str, ...]] = ("latent",)

    decoder_dist: Literal["dml", "normal", "dl", "bin"] = "dml"
    arch_instance: Literal["res_bnswish", "res_mbconv"] = "res_bnswish"
    channel_mult: tuple[int, ...] = (1, 2)
    num_channels_enc: int = 128
    num_channels_dec: int = 128
    num_preprocess_blocks: int = 1
    num_preprocess_cells: int = 2
    num_postprocess_blocks: int = 1
    num_postprocess_cells: int = 2
    num_groups_per_scale: int = 20
    num_latent_per_group: int = 9
    num_cell_per_cond_enc: int = 2
    num_cell_per_cond_dec: int = 2
    use_se: bool = True
    num_nf: int = 0

    def latent_shape(self, image_size: int) -> tuple[int, int]:
        return halved(
            image_size, len(self.channel_mult) - 1
        ), self.num_groups_per_scale * self.num_latent_per_group

    def check(self, shape: DataShape) -> None:
        check_unconditional(type(self).__name__, shape.num_classes)
        self.latent_shape(shape.image_size)
        blocks = self.num_preprocess_blocks, self.num_postprocess_blocks
        if blocks != (len(self.channel_mult) - 1,) * 2:
            raise ValueError(
                "expected num_preprocess_blocks = num_postprocess_blocks = len(channel_mult) - 1, found "
                f"{blocks[0]}, {blocks[1]} and {len(self.channel_mult)} - 1"
            )
        if shape.channels != (channels := 1 if self.decoder_dist == "bin" else 3):
            raise ValueError(
                f"decoder_dist {self.decoder_dist!r} needs {channels} image channels, found {shape.channels}"
            )

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """Build the network with fresh weights.

        Raises ValueError for inconsistent settings, and for classes, which the network does not have.
        """
        from dgflow.networks.lsgm.nvae import NVAEModule

        check_unconditional(type(self).__name__, num_classes)
        return NVAEModule(
            image_size=image_size, in_channels=channels, num_latent_scales=1, **self.model_dump()
        )

    def encode(
        self, network: Any, images_BCHW: Tensor, noise_BCHW: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Draw latents, each group from its posterior given the preceding groups."""
        assert noise_BCHW is not None
        return (network.encode((images_BCHW + 1) / 2, [noise_BCHW])[0],)

    def decode(self, network: Any, latents_BCHW: Tensor) -> Tensor:
        """Images in [-1, 1]: the mean of the output head."""
        return 2 * network.decode(latents_BCHW) - 1

    def toy(self, factor: int) -> Self:
        del factor
        cells = "preprocess_cells", "postprocess_cells", "cell_per_cond_enc", "cell_per_cond_dec"
        return self.model_copy(
            update={
                "num_groups_per_scale": TOY_GROUPS,
                "num_latent_per_group": TOY_PER_GROUP,
                "num_channels_enc": 16,
                "num_channels_dec": 16,
                **{f"num_{name}": 1 for name in cells},
            }
        )

    def read_published(
        self, file: File, format: str, network: Any, shape: DataShape, source: str
    ) -> WeightFile:
        from dgflow.networks.lsgm.file import read_lsgm

        return read_lsgm(file, "vae", source=source)

    def said(self, network: Any, shape: DataShape) -> dict[str, Said]:
        """The settings that a file may declare; the sizes in LSGM's `args` belong to its data sets."""
        from dgflow.weights.declared import Said

        fields = {name: Said(value, name) for name, value in self.model_dump().items()}
        return fields | {"num_latent_scales": Said(1, None)}

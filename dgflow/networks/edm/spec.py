"""Specs of EDM's networks, for recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from dgflow.networks.checks import check_halvings, check_heads, check_unet_widths
from dgflow.networks.roles import ScoreNetworkSpec
from dgflow.networks.toy import capped, divided
from dgflow.specs.network import DataShape, NetworkSpec

if TYPE_CHECKING:
    from torch import nn

    from dgflow.diffusion.score_model import ScoreModel
    from dgflow.weights.declared import Said
    from dgflow.weights.weight_file import File, WeightFile


PRECONDITIONERS = {"EDMPrecond": "edm", "VPPrecond": "vp", "VEPrecond": "ve", "iDDPMPrecond": "iddpm"}
"""EDM's preconditioner classes, by the value of `precond`."""
CONSTANTS = ("beta_d", "beta_min", "M", "C_1", "C_2", "epsilon_t")
ROUNDED = 0.1
"""Relative difference up to which two ends of a range of noise levels count as equal. Some ends come from
float32 formulas whose neighbouring results are 6 % apart.
"""


class _Preconditioned(ScoreNetworkSpec):
    """A U-Net under one of EDM's preconditioners."""

    formats: ClassVar[tuple[str, ...]] = ("edm_pickle",)

    precond: Literal["edm", "vp", "ve", "iddpm"] = "edm"
    sigma_data: float = 0.5  # standard deviation of the data, for the EDM preconditioner
    augment_dim: int = 0

    @property
    def untrained(self) -> tuple[str, ...]:
        """Modules that `TrainScore` leaves untrained: those for augmentation labels, which it does not
        use.
        """
        return ("model.map_augment",) if self.augment_dim else ()

    def arguments(self, shape: DataShape) -> dict[str, Any]:
        """The constructor's arguments of the U-Net inside."""
        return {
            "img_resolution": shape.image_size,
            "img_channels": shape.channels,
            "label_dim": shape.num_classes,
            **self.model_dump(exclude={"sigma_data", "precond"}),
        }

    def preconditioned(self, network: Any) -> nn.Module:
        """Wrap a U-Net as the denoiser D(x, sigma, class_labels)."""
        from dgflow.networks.edm import preconditioners as edm

        if self.precond == "edm":
            return edm.EDMPrecond(network, sigma_data=self.sigma_data)
        return {"vp": edm.VPPrecond, "ve": edm.VEPrecond, "iddpm": edm.iDDPMPrecond}[self.precond](network)

    def score_model(self, network: Any) -> ScoreModel:
        from dgflow.diffusion.score_model import ScoreModel

        rounds = network.round_sigma if self.precond == "iddpm" else None
        return ScoreModel(network, round_sigma=rounds, sigma_range=(network.sigma_min, network.sigma_max))

    def read_published(
        self, file: File, format: str, network: Any, shape: DataShape, source: str
    ) -> WeightFile:
        from dgflow.networks.edm.file import read_edm_pickle

        return read_edm_pickle(file, source=source)

    def said(self, network: Any, shape: DataShape) -> dict[str, Said]:
        """The settings that a file may declare, including the class and the constants of the
        preconditioner.
        """
        from dgflow.weights.declared import Said

        said = super().said(network, shape)
        if self.precond != "edm":
            del said["sigma_data"]
        said["network"] = Said(type(self).__name__, None)
        for name in CONSTANTS:
            if (value := getattr(network, name, None)) is not None:
                said[name] = Said(value, None)
        for name in ("sigma_min", "sigma_max"):
            said[name] = Said(getattr(network, name, None), None, ROUNDED)
        return said

    def declared(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Translate the settings of a pickle, or of `training_options.json` beside it."""
        inner = settings.get("model")
        fields = super().declared(inner if isinstance(inner, dict) and "init_kwargs" in inner else settings)
        for part in (settings, inner):
            if isinstance(part, dict):
                fields |= {**part.get("init_kwargs", {}), **part.get("attributes", {})}
        name = settings.get("class_name", fields.get("class_name"))
        if isinstance(name, str):
            last = name.rpartition(".")[2]
            fields["precond"] = PRECONDITIONERS.get(last, last)
        network = inner.get("class_name") if isinstance(inner, dict) else None
        if network := network or fields.get("model_type"):
            fields["network"] = network
        if fields.get("precond", "edm") != "edm":
            fields.pop("sigma_data", None)  # only EDM's preconditioner has sigma_data
        return fields

    def write_published(
        self, format: str, network: Any, shape: DataShape, others: Sequence[tuple[NetworkSpec, Any]]
    ) -> bytes:
        from dgflow.networks.edm.file_writer import write_edm_pickle

        return write_edm_pickle(network, init_kwargs=self.arguments(shape))


class SongUNet(_Preconditioned):
    """EDM's U-Net (DDPM++ is `positional`/`standard`, NCSN++ is `fourier`/`residual`) under one of EDM's
    preconditioners.

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

    def check(self, shape: DataShape) -> None:
        _check_levels(self, shape, self.model_channels)

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """Build the denoiser with fresh weights; `num_classes` is 0 for an unconditional network."""
        from dgflow.networks.edm.song import SongUNetModule

        shape = DataShape(image_size, channels, num_classes)
        return self.preconditioned(SongUNetModule(**self.arguments(shape)))

    def toy(self, factor: int) -> Self:
        return self.model_copy(
            update={
                "model_channels": min(16, self.model_channels),
                "num_blocks": 1,
                "attn_resolutions": divided(self.attn_resolutions, factor),
            }
        )


class DhariwalUNet(_Preconditioned):
    """EDM's port of ADM's U-Net; the defaults are `edm-imagenet-64x64-cond-adm`.

    `attn_resolutions` are image sides in pixels.
    """

    model_channels: int = 192
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    num_blocks: int = 3
    attn_resolutions: tuple[int, ...] = (32, 16, 8)
    dropout: float = 0.1

    def check(self, shape: DataShape) -> None:
        _check_levels(self, shape, self.model_channels * self.channel_mult[0])
        for level, mult in enumerate(self.channel_mult):
            width, deepest = self.model_channels * mult, level == len(self.channel_mult) - 1
            attends = deepest or shape.image_size >> level in self.attn_resolutions
            if attends and width >= 64:  # narrower levels have no attention
                check_heads(width, width // 64, "model_channels, to a multiple of 64")

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """Build the denoiser with fresh weights; `num_classes` is 0 for an unconditional network."""
        from dgflow.networks.edm.dhariwal import DhariwalUNetModule

        arguments = self.arguments(DataShape(image_size, channels, num_classes))
        outputs = 2 * channels if self.precond == "iddpm" else channels
        return self.preconditioned(DhariwalUNetModule(out_channels=outputs, **arguments))

    def toy(self, factor: int) -> Self:
        return self.model_copy(
            update={
                "model_channels": 64,  # heads have 64 channels
                "channel_mult": capped(self.channel_mult, 1),
                "num_blocks": 1,
                "attn_resolutions": divided(self.attn_resolutions, factor),
            }
        )


def _check_levels(spec: SongUNet | DhariwalUNet, shape: DataShape, first: int) -> None:
    check_halvings(shape.image_size, len(spec.channel_mult))
    widths = [spec.model_channels * mult for mult in spec.channel_mult]
    check_unet_widths(first, widths, spec.num_blocks)

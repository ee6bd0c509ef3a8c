"""Specs of EDM2's networks, for recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field

from dgflow.networks.checks import check_halvings, check_heads
from dgflow.networks.roles import ScoreNetworkSpec
from dgflow.networks.toy import divided
from dgflow.specs.network import DataShape, NetworkSpec

if TYPE_CHECKING:
    from torch import nn

    from dgflow.diffusion.score_model import ScoreModel
    from dgflow.weights.declared import Said
    from dgflow.weights.weight_file import File, WeightFile

CLASS = "Precond"
"""The class name of the networks in EDM2's files."""


class EDM2UNet(ScoreNetworkSpec):
    """EDM2's magnitude-preserving U-Net under EDM's preconditioning (Karras et al. 2024); EDM2-S by default.

    The published sizes differ in `model_channels` and `dropout`: `edm2("xs")`. `attn_resolutions` are image
    sides in pixels; levels with fewer than `channels_per_head` channels have no attention. `latent`: samples
    are latents, for a decoder. Image side and channels come from the data.
    """

    formats: ClassVar[tuple[str, ...]] = ("edm_pickle",)

    model_channels: int = Field(default=192, gt=0)
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    channel_mult_noise: int | None = Field(default=None, gt=0)  # None: the first level's multiple
    channel_mult_emb: int | None = Field(default=None, gt=0)  # None: the largest multiple
    num_blocks: int = Field(default=3, ge=0)
    attn_resolutions: tuple[int, ...] = (16, 8)
    channels_per_head: int = Field(default=64, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    resample_filter: tuple[int, ...] = (1, 1)
    label_balance: float = Field(default=0.5, ge=0, le=1)
    concat_balance: float = Field(default=0.5, ge=0, le=1)
    res_balance: float = Field(default=0.3, ge=0, le=1)
    attn_balance: float = Field(default=0.3, ge=0, le=1)
    clip_act: float | None = Field(default=256.0, gt=0)
    sigma_data: float = Field(default=0.5, gt=0)
    logvar_channels: int = Field(default=128, gt=0)
    latent: bool = False

    @property
    def gives_latents(self) -> bool:
        return self.latent

    @property
    def untrained(self) -> tuple[str, ...]:
        """Modules that `TrainScore` leaves untrained: the uncertainty, which is not in its loss."""
        return ("logvar_linear",)

    def check(self, shape: DataShape) -> None:
        check_halvings(shape.image_size, len(self.channel_mult))
        sides = [shape.image_size >> level for level in range(len(self.channel_mult))]
        for side, mult in zip(sides, self.channel_mult, strict=True):
            width = self.model_channels * mult
            heads = width // self.channels_per_head  # 0 in narrow levels
            if heads and (side in self.attn_resolutions or side == sides[-1]):
                check_heads(width, heads, "model_channels, to a multiple of channels_per_head")

    def arguments(self, shape: DataShape) -> dict[str, Any]:
        """The constructor's arguments of the denoiser."""
        return {
            "img_resolution": shape.image_size,
            "img_channels": shape.channels,
            "label_dim": shape.num_classes,
            **self.model_dump(exclude={"latent"}),
        }

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """Build the denoiser with fresh weights; `num_classes` is 0 for an unconditional network."""
        from dgflow.networks.edm2.preconditioner import Precond

        return Precond(**self.arguments(DataShape(image_size, channels, num_classes)))

    def score_model(self, network: Any) -> ScoreModel:
        from dgflow.diffusion.score_model import ScoreModel

        return ScoreModel(network, latent=self.latent)

    def toy(self, factor: int) -> Self:
        return self.model_copy(
            update={
                "model_channels": min(16, self.model_channels),
                "channels_per_head": min(16, self.channels_per_head),
                "num_blocks": 1,
                "attn_resolutions": divided(self.attn_resolutions, factor),
            }
        )

    def fill(self, network: Any) -> None:
        """Replace weights initialised to zero, as for every network, and set gains initialised to zero to
        one.
        """
        super().fill(network)
        for name, parameter in network.named_parameters():
            if name.endswith("gain"):
                parameter.fill_(1.0)

    def read_published(
        self, file: File, format: str, network: Any, shape: DataShape, source: str
    ) -> WeightFile:
        """Read a snapshot's averages as float32; EDM2's files store parameters and buffers in float16."""
        from dgflow.networks.edm.file import read_edm_pickle
        from dgflow.weights.weight_file import WeightFile

        found = read_edm_pickle(file, source=source)
        return WeightFile({name: tensor.float() for name, tensor in found.tensors.items()}, found.settings)

    def said(self, network: Any, shape: DataShape) -> dict[str, Said]:
        """The settings that a file may declare, including the class name."""
        from dgflow.weights.declared import Said

        return super().said(network, shape) | {"class_name": Said(CLASS, None)}

    def declared(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Translate the settings of a pickle, or of `training_options.json` beside it."""
        fields = super().declared(settings)
        for part in ("init_kwargs", "attributes"):
            fields |= settings.get(part, {})
        if isinstance(name := fields.get("class_name"), str):
            fields["class_name"] = name.rpartition(".")[2]
        return fields

    def write_published(
        self, format: str, network: Any, shape: DataShape, others: Sequence[tuple[NetworkSpec, Any]]
    ) -> bytes:
        from dgflow.networks.edm.file_writer import write_edm_pickle
        from dgflow.networks.edm2.preconditioner import in_half

        return write_edm_pickle(in_half(network), init_kwargs=self.arguments(shape))

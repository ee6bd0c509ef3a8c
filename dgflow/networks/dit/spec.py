"""Spec of DiT, for recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from dgflow.networks.checks import check_heads
from dgflow.networks.discrete import discrete_score_model
from dgflow.networks.roles import ScoreNetworkSpec
from dgflow.specs.network import DataShape, NetworkSpec

if TYPE_CHECKING:
    from torch import nn

    from dgflow.diffusion.score_model import ScoreModel
    from dgflow.weights.declared import Said
    from dgflow.weights.weight_file import File, WeightFile


LATENT_FACTOR = 8
"""Ratio of the image's side to the latent's side."""


class DiT(ScoreNetworkSpec):
    """Diffusion transformer of Peebles & Xie 2023 on latents; DiT-XL/2 by default.

    The network has one class more than the data: the null class.
    """

    formats: ClassVar[tuple[str, ...]] = ("dit", "diffusers_dit")
    read_only: ClassVar[tuple[str, ...]] = ("diffusers_dit",)
    needs_classes: ClassVar[bool] = True
    gives_latents: ClassVar[bool] = True
    has_null_class: ClassVar[bool] = True

    patch_size: int = 2
    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    mlp_ratio: float = 4.0
    learn_sigma: bool = True

    def check(self, shape: DataShape) -> None:
        if self.patch_size < 1 or shape.image_size % self.patch_size:
            raise ValueError(
                f"a latent side of {shape.image_size} cannot be cut into patches of {self.patch_size}: "
                "change patch_size"
            )
        check_heads(self.hidden_size, self.num_heads, "num_heads or hidden_size")
        if self.hidden_size % 4:
            raise ValueError(f"hidden_size must be a multiple of 4, found {self.hidden_size}")

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """Build the network with fresh weights; `image_size` is the side of the latent."""
        from dgflow.networks.dit.module import DiTModule

        return DiTModule(
            input_size=image_size, in_channels=channels, num_classes=num_classes, **self.model_dump()
        )

    def score_model(self, network: Any) -> ScoreModel:
        model = discrete_score_model(
            network, "linear", learn_sigma=self.learn_sigma, null_label=network.null_label
        )
        return replace(model, latent=True)

    def toy(self, factor: int) -> Self:
        del factor
        return self.model_copy(update={"hidden_size": 64, "depth": 2, "num_heads": 4})

    def read_published(
        self, file: File, format: str, network: Any, shape: DataShape, source: str
    ) -> WeightFile:
        from dgflow.networks.dit.file import from_diffusers, read_dit
        from dgflow.weights.safetensors_file import read_safetensors
        from dgflow.weights.weight_file import WeightFile

        if format == "diffusers_dit":
            found = read_safetensors(file, source=source)
            return WeightFile(from_diffusers(found.tensors, shape.image_size), found.settings)
        return read_dit(file, network, source=source)

    def said(self, network: Any, shape: DataShape) -> dict[str, Said]:
        """The settings that a file may declare. `image_size` in DiT's `args` is the side of images, eight
        times the latent's.
        """
        from dgflow.weights.declared import Said

        said = super().said(network, shape)
        side, heads = Said(shape.image_size, "image_size"), Said(self.num_heads, "num_heads")
        diffusers = {
            "num_attention_heads": heads,
            "attention_head_dim": Said(self.hidden_size // self.num_heads, "num_heads"),
            "num_layers": Said(self.depth, "depth"),
            "num_embeds_ada_norm": said["num_classes"],
            "sample_size": side,
        }
        return said | diffusers | {"input_size": side, "image_size": side}

    def declared(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Translate the settings of DiT's `args`, or of diffusers' `config.json`."""
        from dgflow.networks.dit.file import named_settings
        from dgflow.weights.declared import flat

        fields = {name: value for name, value in flat(settings).items() if name != "model"}
        args = settings.get("args", settings)
        model = args.get("model") if isinstance(args, dict) else None
        if isinstance(size := fields.get("image_size"), int):
            fields["image_size"] = size / LATENT_FACTOR
        return {**named_settings(model), **fields}

    def write_published(
        self, format: str, network: Any, shape: DataShape, others: Sequence[tuple[NetworkSpec, Any]]
    ) -> bytes:
        from dgflow.weights.torch_file import save_torch

        return save_torch(dict(network.state_dict()))

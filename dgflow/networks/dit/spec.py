"""DiT as recipes name it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from dgflow.networks.discrete import discrete_score_model
from dgflow.networks.roles import ScoreNetworkSpec
from dgflow.specs.network import DataShape, NetworkSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dgflow.diffusion.score_model import ScoreModel
    from dgflow.weights.weight_file import File


class DiT(ScoreNetworkSpec):
    """Diffusion transformer of Peebles & Xie 2023 on latents; DiT-XL/2 by default.

    It has one class more than the data, the null class.
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

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """The network with fresh weights; `image_size` is the side of the latent."""
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
    ) -> dict[str, Tensor]:
        from dgflow.networks.dit.file import from_diffusers, read_dit
        from dgflow.weights.safetensors_file import read_safetensors

        if format == "diffusers_dit":
            return from_diffusers(read_safetensors(file, source=source).tensors, shape.image_size)
        return read_dit(file, source=source).tensors

    def write_published(
        self, format: str, network: Any, shape: DataShape, others: Sequence[tuple[NetworkSpec, Any]]
    ) -> bytes:
        from dgflow.weights.torch_file import save_torch

        return save_torch(dict(network.state_dict()))

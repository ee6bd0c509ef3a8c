"""DiT as recipes name it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Self

from dgflow.networks.discrete import discrete_score_model
from dgflow.networks.roles import ScoreNetworkSpec

if TYPE_CHECKING:
    from torch import nn

    from dgflow.diffusion.score_model import ScoreModel


class DiT(ScoreNetworkSpec):
    """Diffusion transformer of Peebles & Xie 2023 on latents; DiT-XL/2 by default.

    It knows a class more than the data, the null class.
    """

    formats: ClassVar[tuple[str, ...]] = ("dit", "diffusers_dit")
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
        from dgflow.networks.dit.module import DiT as Network

        return Network(
            input_size=image_size, in_channels=channels, num_classes=num_classes, **self.model_dump()
        )

    def score_model(self, network: nn.Module) -> ScoreModel:
        """How samplers ask `network`."""
        from dgflow.networks.dit.module import DiT as Network

        assert isinstance(network, Network)
        model = discrete_score_model(
            network, "linear", learn_sigma=self.learn_sigma, null_label=network.null_label
        )
        return replace(model, latent=True)

    def toy(self, factor: int) -> Self:
        del factor
        return self.model_copy(update={"hidden_size": 64, "depth": 2, "num_heads": 4})

"""Spec of DDPM's U-Net, for recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from dgflow.networks.checks import check_halvings, check_unconditional, check_widths
from dgflow.networks.discrete import discrete_score_model
from dgflow.networks.roles import ScoreNetworkSpec
from dgflow.networks.toy import capped, divided
from dgflow.specs.network import DataShape

if TYPE_CHECKING:
    from torch import nn

    from dgflow.diffusion.score_model import ScoreModel


class DDPMUNet(ScoreNetworkSpec):
    """DDPM's U-Net (Ho et al. 2020) as in SDEdit's checkpoints: predicts the noise at a step of the linear
    schedule.

    `attn_resolutions` are sides.
    """

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.0

    def check(self, shape: DataShape) -> None:
        check_unconditional("DDPMUNet", shape.num_classes)
        check_halvings(shape.image_size, len(self.ch_mult))
        check_widths([self.ch, *(self.ch * mult for mult in self.ch_mult)], 32)

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """Build the network with fresh weights."""
        from dgflow.networks.ddpm.unet import DDPMUNetModule

        check_unconditional("DDPMUNet", num_classes)
        return DDPMUNetModule(image_size=image_size, in_channels=channels, **self.model_dump())

    def score_model(self, network: Any) -> ScoreModel:
        return discrete_score_model(network, "linear", learn_sigma=False)

    def toy(self, factor: int) -> Self:
        return self.model_copy(
            update={
                "ch": 32,  # 32 groups
                "ch_mult": capped(self.ch_mult, 2),
                "num_res_blocks": 1,
                "attn_resolutions": divided(self.attn_resolutions, factor),
            }
        )

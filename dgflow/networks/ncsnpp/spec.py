"""Spec of score_sde's networks, for recipes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from dgflow.networks.checks import check_halvings, check_unconditional, check_unet_widths
from dgflow.networks.roles import ScoreNetworkSpec
from dgflow.networks.toy import divided
from dgflow.specs.network import DataShape, NetworkSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

    from dgflow.diffusion.score_model import ScoreModel
    from dgflow.weights.declared import Said
    from dgflow.weights.weight_file import File, WeightFile

TIME_SCALE = 999.0  # factor from time in [0, 1] to the embedded steps
UNBOUNDED_CONSTANT = 0.001
"""The stabilising constant of Soft Truncation's configurations."""


class NCSNpp(ScoreNetworkSpec):
    """score_sde's DDPM++ as Soft Truncation uses it for CelebA and CIFAR-10: predicts the noise of the
    linear-VP diffusion.

    `unbounded`: use the time of Soft Truncation's "u" models, log(sigma^2 / (1 + sigma^2) + 0.001) + log(1 +
        sigma^2) from time 1e-5 to 1, scaled to 0..999.
    """

    formats: ClassVar[tuple[str, ...]] = ("soft_truncation",)

    nf: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.1
    fir: bool = False
    progressive_input: Literal["none", "input_skip"] = "none"
    embedding_dim: int | None = None  # None: nf
    unbounded: bool = False

    def check(self, shape: DataShape) -> None:
        check_unconditional("NCSNpp", shape.num_classes)
        check_halvings(shape.image_size, len(self.ch_mult))
        check_unet_widths(self.nf, [self.nf * mult for mult in self.ch_mult], self.num_res_blocks)

    def build(self, *, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """Build the network with fresh weights."""
        from dgflow.networks.ncsnpp.module import NCSNppModule

        check_unconditional("NCSNpp", num_classes)
        return NCSNppModule(
            image_size=image_size, num_channels=channels, **self.model_dump(exclude={"unbounded"})
        )

    def score_model(self, network: Any) -> ScoreModel:
        import torch

        from dgflow.diffusion.denoisers import VPDenoiser, epsilon_only
        from dgflow.diffusion.score_model import ScoreModel
        from dgflow.diffusion.times import sigma_from_tau, tau_from_sigma

        # The network's own time range is [1e-5, 1].
        levels = (sigma_from_tau(1e-5), sigma_from_tau(1.0))

        def unbounded(sigma: torch.Tensor) -> torch.Tensor:
            integral = torch.log1p(sigma.square())
            return torch.log(-torch.expm1(-integral) + UNBOUNDED_CONSTANT) + integral

        def time(sigma: torch.Tensor) -> torch.Tensor:
            if not self.unbounded:
                return TIME_SCALE * tau_from_sigma(sigma)
            low, high = (unbounded(torch.full_like(sigma, level)) for level in levels)
            return TIME_SCALE * (unbounded(sigma) - low) / (high - low)

        return ScoreModel(VPDenoiser(epsilon_only(network), time), sigma_range=levels)

    def toy(self, factor: int) -> Self:
        return self.model_copy(
            update={"nf": 16, "num_res_blocks": 1, "attn_resolutions": divided(self.attn_resolutions, factor)}
        )

    def read_published(
        self, file: File, format: str, network: Any, shape: DataShape, source: str
    ) -> WeightFile:
        from dgflow.networks.ncsnpp.file import read_soft_truncation

        return read_soft_truncation(file, network.ema_names(), source=source)

    def said(self, network: Any, shape: DataShape) -> dict[str, Said]:
        """The settings that a file may declare, including options of score_sde's configurations that this
        network lacks.
        """
        from dgflow.weights.declared import Said

        fixed = {
            "embedding_type": "positional",
            "progressive": "none",
            "scale_by_sigma": False,
            "skip_rescale": True,
            "resblock_type": "biggan",
        }
        said = super().said(network, shape) | {name: Said(value, None) for name, value in fixed.items()}
        return said | {"num_channels": Said(shape.channels, "channels")}

    def write_published(
        self, format: str, network: Any, shape: DataShape, others: Sequence[tuple[NetworkSpec, Any]]
    ) -> bytes:
        from dgflow.networks.ncsnpp.file import write_soft_truncation

        return write_soft_truncation(network.state_dict(), network.ema_names())

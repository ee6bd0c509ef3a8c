"""A perceptron of noisy samples and their time: the discriminator of Kim et al. 2023's section 5.1.

Shape letters: B batch, C channels, H W height and width, E embedding width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from dgflow.networks.adm.layers import sinusoid
from dgflow.networks.labels import with_labels
from dgflow.networks.perceptron.sizes import check_units
from dgflow.networks.precision import wide_linear

EMBEDDING = 128  # channels of the embedded time


class PerceptronModule(nn.Module):
    """Sample and time to one logit: the flattened sample through `layers` layers of `width` SiLU units.

    The embedded time and class scale and shift what the first layer makes of the sample, so that its slopes
    can follow the noise level. On mixtures in the plane this learns the log-ratio in a third of the steps
    that an embedding beside the sample takes. The last layer begins as zero: an untrained discriminator
    guides nowhere.

    First and last layer and the embedding are in float32 at least: a sample of two values and a log-ratio
    have no use for eight bits.

    Args:
        image_size: side of the input.
        in_channels: channels of the input.
        num_classes: rows of the label embedding, None for an unconditional network.
        time_scale: factor from the time that is given to the step that is embedded, as of ADM's encoder.

    Raises:
        ValueError: no units or no layers.
    """

    def __init__(
        self,
        *,
        image_size: int,
        in_channels: int,
        width: int,
        layers: int,
        num_classes: int | None = None,
        time_scale: float = 999.0,
    ) -> None:
        super().__init__()
        check_units(width, layers)
        self.image_size, self.in_channels, self.out_channels = image_size, in_channels, 1
        self.num_classes, self.time_scale = num_classes, time_scale
        self.time_embed = nn.Linear(EMBEDDING, EMBEDDING)
        self.label_emb = nn.Embedding(num_classes, EMBEDDING) if num_classes is not None else None
        self.scale_shift = nn.Linear(EMBEDDING, 2 * width)
        self.first = nn.Linear(in_channels * image_size**2, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(layers - 1))
        self.last = nn.Linear(width, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x_BCHW: Tensor, t_B: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Logits [B, 1].

        Args:
            x_BCHW: noisy samples.
            t_B: times [B] or [1], multiplied by `time_scale` in their own precision.
            class_labels: int64 [B] or one-hot [B, K], for a conditional network; others ignore them.
        """
        emb_BE = wide_linear(self.time_embed, sinusoid(t_B.reshape(-1) * self.time_scale, EMBEDDING))
        if self.label_emb is not None:
            emb_BE = with_labels(emb_BE, self.label_emb, class_labels)
        scale, shift = wide_linear(self.scale_shift, F.silu(emb_BE)).chunk(2, dim=1)
        h = F.silu(wide_linear(self.first, x_BCHW.flatten(1)) * (1 + scale) + shift)
        h = h.to(self.last.weight.dtype)
        for layer in self.hidden:
            h = F.silu(layer(h))
        return wide_linear(self.last, h)

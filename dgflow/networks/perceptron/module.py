"""A perceptron of a noisy sample and its time: the discriminator of Kim et al. 2023, section 5.1.

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
    """Perceptron that maps sample and time to one logit: the flattened sample passes `layers` layers of
    `width` SiLU units.

    The embedded time and class scale and shift the output of the first layer, so that its slopes can follow
    the noise level. On mixtures in the plane, training needs a third of the steps that it needs with the
    embedding concatenated to the sample. The last layer is initialised to zero, so an untrained discriminator
    does not guide.

    First layer, last layer and embedding are computed in at least float32, since eight bits are too few for a
    sample of two values and for a log-ratio.

    Args:
        image_size: side of the input.
        in_channels: channels of the input.
        num_classes: rows of the label embedding; None for an unconditional network.
        time_scale: factor from the given time to the embedded step, as in ADM's encoder.

    Raises:
        ValueError: there are no units or no layers.
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
            t_B: times [B] or [1], multiplied by `time_scale` in the precision of `t_B`.
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

"""Evaluate several discriminators together: members on the same frozen features share one pass through the
features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dgflow.networks.discriminator.module import DiscriminatorModule


class EnsembleModule(nn.Module):
    """Compute the logits of `members`, discriminators of the same samples at the same time.

    Features are computed once per call for all members whose `features` are the same module, and autograd
    sums the gradients of those members' heads before one backward pass. Other members run separately.

    Heads are evaluated in a loop. Six heads of the published depth take a fifth of the time of their features
    (`benchmarks/ensemble.py`). `torch.func.vmap` would save a tenth of the total, but it has no rule for
    attention on the CPU and needs heads of equal shape.

    Args:
        members: in the order of the rows of the output; at least one.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x_BCHW: Tensor, t_B: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Logits [K, B] of the K members; arguments as in `DiscriminatorModule`."""
        computed: dict[nn.Module, Tensor] = {}
        logits = []
        for member in self.members:
            if isinstance(member, DiscriminatorModule) and member.features is not None:
                if member.features not in computed:
                    computed[member.features] = member.features.features(x_BCHW, t_B)
                logits.append(member.on_features(computed[member.features], t_B, class_labels))
            else:
                logits.append(member(x_BCHW, t_B, class_labels))
        return torch.stack(logits)

"""Map the names in files of Stable Diffusion's autoencoder."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

OLD_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names in files of early versions of diffusers -> current names."""


def present_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of an `AutoencoderKL` to diffusers' current names."""
    return {_present_name(name): tensor for name, tensor in state_dict.items()}


def _present_name(name: str) -> str:
    return re.sub(
        r"(\.attentions\.\d+\.)(query|key|value|proj_attn)\.",
        lambda match: f"{match[1]}{OLD_ATTENTION_NAMES[match[2]]}.",
        name,
    )

"""A module with what EDM's networks have no example of, to be pickled in their format."""

import torch
from torch import nn


class Buffered(nn.Module):
    """A buffer that is not stored, shared storage, an absent parameter."""

    def __init__(self) -> None:
        super().__init__()
        whole = torch.arange(12.0)
        self.register_buffer("kept", whole[2:8].reshape(2, 3).t())
        self.register_buffer("same_storage", whole[:4])
        self.register_buffer("transient", torch.ones(3), persistent=False)
        self.register_parameter("absent", None)
        self.small = nn.Parameter(torch.tensor([1.5, -2.0], dtype=torch.float16))

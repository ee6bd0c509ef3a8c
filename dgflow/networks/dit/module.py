"""DiT, the diffusion transformer on latents (Peebles & Xie 2023), with the published parameter names. Norms,
softmaxes and the time embedding are computed in float32 even in half precision.

Shape letters: B batch, C channels, H W height and width of the latent, N tokens (patches, row by row), D
width of a token.
"""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgflow.networks.adm.layers import sinusoid
from dgflow.networks.labels import label_indices
from dgflow.networks.precision import wide_linear

TIME_FREQUENCIES = 256
"""Width of the sinusoidal timestep embedding: 128 cosines, 128 sines."""


class Size(TypedDict):
    patch_size: int
    hidden_size: int
    depth: int
    num_heads: int


_WIDTHS = {"XL": (1152, 28, 16), "L": (1024, 24, 16), "B": (768, 12, 12), "S": (384, 12, 6)}
SIZES: dict[str, Size] = {
    f"DiT-{size}/{patch}": Size(patch_size=patch, hidden_size=width, depth=depth, num_heads=heads)
    for size, (width, depth, heads) in _WIDTHS.items()
    for patch in (2, 4, 8)
}
"""The published networks by name, such as "DiT-XL/2": constructor arguments."""


class DiTModule(nn.Module):
    """Transformer from latent, timestep and class to predicted noise and, with `learn_sigma`, as many
    channels that interpolate the reverse variance.

    Args:
        input_size: side of the latent: 32 for images of 256 pixels, 64 for 512.
        patch_size: side of the square of latent pixels that becomes one token.
        in_channels: channels of the latent.
        hidden_size: width of a token, a multiple of 4 and of `num_heads`.
        depth: number of transformer blocks.
        num_heads: attention heads, each of width `hidden_size / num_heads`.
        mlp_ratio: width of a block's hidden layer as a multiple of `hidden_size`.
        num_classes: classes, at least 1.
        learn_sigma: twice as many output channels as input channels: noise, then variance.
        null_class: add a row to the label embedding, `null_label` = `num_classes`, which means no class.

    Raises:
        ValueError: sizes that are not divisible as stated above.
    """

    def __init__(
        self,
        *,
        input_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        num_classes: int = 1000,
        learn_sigma: bool = True,
        null_class: bool = True,
    ) -> None:
        super().__init__()
        if input_size % patch_size:
            raise ValueError(
                f"input_size must be a multiple of patch_size, found {input_size} and {patch_size}"
            )
        if hidden_size % 4 or hidden_size % num_heads:
            raise ValueError(
                f"hidden_size must be a multiple of 4 and of num_heads, found {hidden_size} and "
                f"{num_heads} heads"
            )
        if num_classes < 1:
            raise ValueError(f"expected num_classes >= 1, found {num_classes}")
        self.input_size, self.patch_size, self.in_channels = input_size, patch_size, in_channels
        self.out_channels = 2 * in_channels if learn_sigma else in_channels
        self.num_classes, self.null_label = num_classes, num_classes if null_class else None

        # A parameter rather than a buffer, and at this position, as in the published files and optimisers.
        self.pos_embed = nn.Parameter(
            position_table(hidden_size, input_size // patch_size), requires_grad=False
        )
        self.x_embedder = PatchEmbedding(in_channels, patch_size, hidden_size)
        self.t_embedder = TimestepEmbedding(hidden_size)
        self.y_embedder = LabelEmbedding(num_classes + null_class, hidden_size)
        self.blocks = nn.ModuleList([Block(hidden_size, num_heads, mlp_ratio) for _ in range(depth)])
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * self.out_channels)

    def forward(self, x_BCHW: Tensor, timesteps_B: Tensor, class_labels: Tensor | None) -> Tensor:
        """Output [B, out_channels, H, W] in the dtype of the parameters.

        Args:
            x_BCHW: noisy latents [B, in_channels, input_size, input_size]; cast to the dtype of the
                parameters.
            timesteps_B: steps 0..999 of the full schedule, [B], [1] or 0-d, integer or float.
            class_labels: int64 [B] with `null_label` for no class, or one-hot rows.

        Raises:
            ValueError: latents or labels have another form.
        """
        side, patch = self.input_size, self.patch_size
        if x_BCHW.shape[1:] != (self.in_channels, side, side):
            raise ValueError(
                f"this network takes latents [B, {self.in_channels}, {side}, {side}], found "
                f"{list(x_BCHW.shape)}"
            )
        labels_B = label_indices(class_labels, self.y_embedder.embedding_table.num_embeddings)
        x_BND = self.x_embedder(x_BCHW.to(self.pos_embed.dtype)) + self.pos_embed
        c_BD = (self.t_embedder(timesteps_B.reshape(-1)) + self.y_embedder(labels_B)).to(x_BND.dtype)
        for block in self.blocks:
            x_BND = block(x_BND, c_BD)
        # Order of a token's numbers: row in the patch, column in the patch, channel.
        h = self.final_layer(x_BND, c_BD).reshape(
            -1, side // patch, side // patch, patch, patch, self.out_channels
        )
        return h.permute(0, 5, 1, 3, 2, 4).reshape(-1, self.out_channels, side, side)


class PatchEmbedding(nn.Module):
    """Embed a latent [B, C, H, W] as tokens [B, N, D], one per patch."""

    def __init__(self, channels: int, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch_size, stride=patch_size)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.proj(x_BCHW).flatten(2).transpose(1, 2)


class TimestepEmbedding(nn.Module):
    """Embed timesteps [B] as [B, D], in at least float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, timesteps_B: Tensor) -> Tensor:
        first, silu, second = self.mlp
        assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
        return wide_linear(second, silu(wide_linear(first, sinusoid(timesteps_B, TIME_FREQUENCIES))))


class LabelEmbedding(nn.Module):
    """Embed class indices [B] as [B, D]."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(rows, width)

    def forward(self, labels_B: Tensor) -> Tensor:
        return self.embedding_table(labels_B)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens. Row order of qkv: q, k or v; head; channel."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        B, N, D = x_BND.shape
        q, k, v = (
            self.qkv(x_BND)
            .reshape(B, N, 3, self.num_heads, D // self.num_heads)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, N, D))


class MLP(nn.Module):
    """Linear, GELU (tanh approximation), linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x_BND), approximate="tanh"))


class Block(nn.Module):
    """Transformer block whose norms are shifted, scaled and gated by the condition (adaLN-Zero: a fresh block
    is the identity)."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.attn = Attention(width, num_heads)
        self.mlp = MLP(width, int(width * mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), _zeroed(nn.Linear(width, 6 * width)))

    def forward(self, x_BND: Tensor, c_BD: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c_BD)[:, None].chunk(6, dim=2)
        x_BND = x_BND + gate1 * self.attn(_modulated(x_BND, shift1, scale1))
        return x_BND + gate2 * self.mlp(_modulated(x_BND, shift2, scale2))


class FinalLayer(nn.Module):
    """Final layer: modulated norm, then projection to the numbers of a token's patch."""

    def __init__(self, width: int, out_features: int) -> None:
        super().__init__()
        self.linear = _zeroed(nn.Linear(width, out_features))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), _zeroed(nn.Linear(width, 2 * width)))

    def forward(self, x_BND: Tensor, c_BD: Tensor) -> Tensor:
        return self.linear(_modulated(x_BND, *self.adaLN_modulation(c_BD)[:, None].chunk(2, dim=2)))


def position_table(width: int, grid: int) -> Tensor:
    """Sinusoidal position embedding of each token, float32 [1, grid^2, width], computed in float64.

    The first half of the width is [sin, cos] of the column times width / 4 frequencies 10000^(-i / (width /
    4)), the second of the row.
    """
    frequencies = 10_000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * frequencies
    places = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns = places[None, :].expand(grid, -1, -1)
    rows = places[:, None].expand(-1, grid, -1)
    return torch.cat([columns, rows], dim=2).reshape(1, grid**2, width).float()


def _modulated(x_BND: Tensor, shift_B1D: Tensor, scale_B1D: Tensor) -> Tensor:
    # Layer norm kernels compute in float32 internally, for any precision of x.
    return torch.addcmul(shift_B1D, F.layer_norm(x_BND, x_BND.shape[-1:], eps=1e-6), 1 + scale_B1D)


def _zeroed(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer

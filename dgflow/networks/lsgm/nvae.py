"""LSGM's NVAE: encode images into the latent space of LSGM's prior, and decode them, with the published
parameter and buffer names.

Source: Vahdat & Kautz 2020 (NVAE), Vahdat et al. 2021 (LSGM). Nothing here draws random numbers: `decode`
returns the mean of the output head, and the caller passes noise to `encode`. Options are named after LSGM's
arguments.

Latents: one tensor per scale, coarsest first, [B, num_groups_per_scale * num_latent_per_group, H, W], its
groups side by side in channels.
Shape letters: B batch, C channels, H W height and width, Z latent channels of one group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dgflow.networks.checks import check_choice
from dgflow.networks.lsgm.nvae_heads import (
    HEAD_CHANNELS,
    IMAGE_CHANNELS,
    NUM_MIXTURES,
    PER_MIXTURE,
    image_mean,
)
from dgflow.networks.lsgm.nvae_layers import (
    BatchNorm,
    BNSwishConv,
    Cell,
    DecoderCombiner,
    EncoderCombiner,
    FlowPair,
    Resample,
    WeightNormConv2d,
    soft_clamp,
)

MBCONV_EXPANSION = {"decoder": 6, "post": 3}
"""Expansion of the cells at the positions where `res_mbconv` uses them; all others are `res_bnswish`."""

GroupSource = Callable[[int, tuple[int, ...]], Tensor]
"""A function from a group's number and shape (B, Z, H, W) to its latent variables."""


class NVAEModule(nn.Module):
    """Hierarchical VAE whose latent variables form groups, coarsest scale first. Always in evaluation mode;
    there is no training mode.

    Args:
        image_size: side of the square images.
        in_channels: 3 for the heads "dml", "normal" and "dl", 1 for "bin".
        decoder_dist: output head.
        arch_instance: kind of cells: "res_bnswish" and "res_bnswish2" (two convolutions after batch norm and
            swish), or "res_mbconv".
        channel_mult: width at each side, finest first, as a multiple of `num_channels_enc` and
            `num_channels_dec`; has length `num_preprocess_blocks + num_latent_scales`.
        num_preprocess_blocks, num_postprocess_blocks: number of halvings before and doublings after the
            latent scales; must be equal.
        num_nf: pairs of normalising-flow cells per group, after its posterior. Decoding does not need them.
        progressive_input_vae: "none", or "input_skip" to add a feature pyramid to the encoder at each scale.
        log_sig_q_scale: limit of the posterior's |log sigma|.
        num_mixture_dec: components of the head "dml".
        batch_statistics: use statistics of the current batch in batch norms instead of the stored ones
            (LSGM's `vae_train_mode`). An image then depends on the rest of its batch.

    Raises:
        ValueError: an option is unknown, or settings are inconsistent.
    """

    def __init__(
        self,
        *,
        image_size: int,
        in_channels: int,
        decoder_dist: str,
        arch_instance: str,
        channel_mult: Sequence[int],
        num_channels_enc: int,
        num_channels_dec: int,
        num_preprocess_blocks: int,
        num_preprocess_cells: int,
        num_postprocess_blocks: int,
        num_postprocess_cells: int,
        num_latent_scales: int,
        num_groups_per_scale: int,
        num_latent_per_group: int,
        num_cell_per_cond_enc: int,
        num_cell_per_cond_dec: int,
        use_se: bool,
        num_nf: int = 0,
        progressive_input_vae: str = "none",
        log_sig_q_scale: float = 5.0,
        num_mixture_dec: int = NUM_MIXTURES,
        batch_statistics: bool = False,
    ) -> None:
        super().__init__()
        check_choice("arch_instance", arch_instance, ("res_bnswish", "res_bnswish2", "res_mbconv"))
        check_choice("decoder_dist", decoder_dist, tuple(HEAD_CHANNELS))
        check_choice("progressive_input_vae", progressive_input_vae, ("none", "input_skip"))
        if in_channels != IMAGE_CHANNELS[decoder_dist]:
            raise ValueError(
                f"decoder_dist {decoder_dist!r} needs {IMAGE_CHANNELS[decoder_dist]} image channels, found "
                f"{in_channels}"
            )
        if not len(channel_mult) - num_latent_scales == num_preprocess_blocks == num_postprocess_blocks:
            raise ValueError(
                "expected num_preprocess_blocks = num_postprocess_blocks = len(channel_mult) - "
                f"num_latent_scales, found {num_preprocess_blocks}, {num_postprocess_blocks} and "
                f"{len(channel_mult)} - {num_latent_scales}"
            )
        halvings = len(channel_mult) - 1
        if image_size % 2**halvings:
            raise ValueError(
                f"image_size {image_size} cannot be halved {halvings} times (channel_mult "
                f"{list(channel_mult)})"
            )
        self.image_size, self.in_channels, self.decoder_dist, self.num_nf = (
            image_size,
            in_channels,
            decoder_dist,
            num_nf,
        )
        self.num_groups_per_scale, self.num_latent_per_group = num_groups_per_scale, num_latent_per_group
        self.log_sig_q_scale = log_sig_q_scale
        sides = [image_size >> (halvings - scale) for scale in range(num_latent_scales)]
        self.latent_shapes = tuple(
            (num_groups_per_scale * num_latent_per_group, side, side) for side in sides
        )
        """(C, H, W) of each scale's latents, coarsest first."""

        def cell(place: str, channels: int, out_channels: int, resample: Resample = None) -> Cell:
            op = (
                MBCONV_EXPANSION[place]
                if arch_instance == "res_mbconv" and place in MBCONV_EXPANSION
                else "res_bnswish"
            )
            return Cell(channels, out_channels, op=op, resample=resample, use_se=use_se)

        enc = [num_channels_enc * mult for mult in channel_mult]
        dec = [num_channels_dec * mult for mult in channel_mult]
        self.prior_ftr0 = nn.Parameter(torch.randn(dec[-1], sides[0], sides[0]))
        self.stem = WeightNormConv2d(in_channels, enc[0], 3)

        pre: list[Cell] = []
        for level in range(num_preprocess_blocks):
            pre += [cell("encoder", enc[level], enc[level]) for _ in range(num_preprocess_cells - 1)]
            pre += [cell("encoder", enc[level], enc[level + 1], "down")]
        self.pre_process = nn.ModuleList(pre)

        scales = range(num_preprocess_blocks, len(channel_mult))  # levels of the latent scales, finest first
        tower: list[nn.Module] = []
        skips: list[nn.Module] = []
        for level in scales:
            for _ in range(num_groups_per_scale):
                tower += [cell("encoder", enc[level], enc[level]) for _ in range(num_cell_per_cond_enc)]
                tower += [EncoderCombiner(dec[level], enc[level])]
            if level < halvings:
                tower += [cell("encoder", enc[level], enc[level + 1], "down")]
                skips += [nn.ModuleDict({"conv": BNSwishConv(enc[level], enc[level + 1], "down")})]
        self.enc_tower = nn.ModuleList(
            tower[:-1]
        )  # the top of the encoder is the first group's posterior, with nothing to combine
        if progressive_input_vae == "input_skip":
            self.progressive_input_cells = nn.ModuleList(skips)
        self.input_skip = progressive_input_vae == "input_skip"

        latent = num_latent_per_group
        groups = [level for level in reversed(scales) for _ in range(num_groups_per_scale)]
        samplers = [nn.Sequential(nn.ELU(), WeightNormConv2d(enc[level], 2 * latent, 3)) for level in groups]
        self.enc_sampler = nn.ModuleList(samplers)
        if num_nf:
            self.nf_cells = nn.ModuleList(FlowPair(latent) for _ in range(len(groups) * num_nf))
        self.eps_conv = nn.ModuleList(WeightNormConv2d(latent, latent, 3) for _ in groups)

        tower = []
        for level in reversed(scales):
            for _ in range(num_groups_per_scale):
                tower += [DecoderCombiner(dec[level], latent)]
                tower += [cell("decoder", dec[level], dec[level]) for _ in range(num_cell_per_cond_dec)]
            if level > num_preprocess_blocks:
                tower += [cell("decoder", dec[level], dec[level - 1], "up")]
        self.dec_tower = nn.ModuleList(tower)

        post: list[Cell] = []
        for level in reversed(range(num_postprocess_blocks)):
            post += [cell("post", dec[level + 1], dec[level], "up")]
            post += [cell("post", dec[level], dec[level]) for _ in range(num_postprocess_cells - 1)]
        self.post_process = nn.ModuleList(post)
        logits = PER_MIXTURE * num_mixture_dec if decoder_dist == "dml" else HEAD_CHANNELS[decoder_dist]
        self.image_conditional = nn.Sequential(nn.ELU(), WeightNormConv2d(dec[0], logits, 3))
        for module in self.modules():
            if isinstance(module, BatchNorm):
                module.batch_statistics = batch_statistics

    def decompose(self, latents: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """Split latents of the given scales, coarsest first, into groups [B, Z, H, W] in the decoder's order;
        a single tensor is the coarsest scale.

        Raises:
            ValueError: there are too many scales, or shapes differ from `latent_shapes`.
        """
        scales = [latents] if isinstance(latents, Tensor) else list(latents)
        found = [tuple(scale.shape[1:]) for scale in scales]
        if not scales or found != list(self.latent_shapes[: len(scales)]):
            raise ValueError(
                f"expected latents of shapes {list(self.latent_shapes)} behind the batch, coarsest first, "
                f"found {found}"
            )
        return [group for scale in scales for group in scale.chunk(self.num_groups_per_scale, dim=1)]

    def decode(self, latents: Tensor | Sequence[Tensor], draw: GroupSource | None = None) -> Tensor:
        """Images [B, C, H, W] in [0, 1], the mean of the output head.

        Args:
            latents: as in `decompose`; all scales, or the first ones.
            draw: returns the groups of the scales missing in `latents` (LSGM: standard normal). Called in the
                decoder's order.

        Raises:
            ValueError: scales are missing without `draw`, or shapes differ.
        """
        return (image_mean(self.decoder_dist, self.logits(latents, draw)).clamp(-1, 1) + 1) / 2

    def logits(self, latents: Tensor | Sequence[Tensor], draw: GroupSource | None = None) -> Tensor:
        """The output head's parameters [B, C', H, W] for the arguments of `decode`; `nvae_heads` defines
        them.
        """
        groups = self.decompose(latents)
        batch = groups[0].shape[0]
        for number in range(len(groups), len(self.eps_conv)):
            if draw is None:
                raise ValueError(
                    f"expected {len(self.latent_shapes)} scales of latents or a `draw` for those that are "
                    "missing"
                )
            side = self.latent_shapes[number // self.num_groups_per_scale][1]
            groups.append(draw(number, (batch, self.num_latent_per_group, side, side)))
        x = self._decoder_tower(batch, lambda number, _: groups[number])
        for layer in self.post_process:
            x = layer(x)
        return self.image_conditional(x)

    def encode(self, images: Tensor, noise: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Latents of `images` [B, C, H, W] in [0, 1], one tensor per scale, as modelled by the prior and
        accepted by `decode`.

        Args:
            noise: standard normal, shaped like the result; None uses the mean of each group's posterior.

        Raises:
            ValueError: images have another size, or the shapes of the noise differ from `latent_shapes`.
        """
        expected = (self.in_channels, self.image_size, self.image_size)
        if tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"expected images of shape (B, {', '.join(map(str, expected))}), found {tuple(images.shape)}"
            )
        noise_groups = None if noise is None else self.decompose(noise)
        if noise_groups is not None and len(noise_groups) != len(self.eps_conv):
            raise ValueError(f"expected noise for all {len(self.latent_shapes)} scales, found fewer")
        top, saved = self._encoder_tower(images)
        groups: list[Tensor] = []

        def encode_group(number: int, decoder_BCHW: Tensor) -> Tensor:
            if number == 0:
                x = top
            else:  # the encoder reaches the groups in reverse order
                combiner, features = saved[-number]
                x = combiner(features, decoder_BCHW)
            mean, log_sigma = self.enc_sampler[number](x).chunk(2, dim=1)
            latent = soft_clamp(mean, 5.0)
            if noise_groups is not None:
                latent = latent + soft_clamp(log_sigma, self.log_sig_q_scale).exp() * noise_groups[number]
            for flow in range(number * self.num_nf, (number + 1) * self.num_nf):
                latent = self.nf_cells[flow](latent)
            groups.append(latent)
            return latent

        self._decoder_tower(images.shape[0], encode_group)
        per_scale = self.num_groups_per_scale
        return [
            torch.cat(groups[first : first + per_scale], dim=1) for first in range(0, len(groups), per_scale)
        ]

    def _encoder_tower(self, images: Tensor) -> tuple[Tensor, list[tuple[EncoderCombiner, Tensor]]]:
        """The features at the top, and at each combiner on the way."""
        x = self.stem(2 * images - 1)
        for layer in self.pre_process:
            x = layer(x)
        pyramid, saved, scale = x, [], 0
        for layer in self.enc_tower:
            if isinstance(layer, EncoderCombiner):
                saved.append((layer, x))
                continue
            x = layer(x)
            if self.input_skip and isinstance(layer, Cell) and layer.resample == "down":
                pyramid = self.progressive_input_cells[scale].get_submodule("conv")(pyramid)
                x = x + pyramid
                scale += 1
        return x, saved

    def _decoder_tower(self, batch: int, latent: Callable[[int, Tensor], Tensor]) -> Tensor:
        """The features after the last group.

        `latent` returns a group's variables from its number and the features before it.
        """
        x = self.prior_ftr0.expand(batch, -1, -1, -1)
        number = 0
        for layer in self.dec_tower:
            if isinstance(layer, DecoderCombiner):
                x = layer(x, self.eps_conv[number](latent(number, x)))
                number += 1
            else:
                x = layer(x)
        return x

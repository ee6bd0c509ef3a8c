"""NCSN++ in every combination of its options, against a plain forward pass that walks the published names in
order: written from the description of the network and of its files, without a class of the package."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dgflow.networks.ncsnpp.module import NCSNppModule

SIDE, BLOCKS, MULTS = 8, 1, (1, 2)
CHOICES = {
    "progressive": ("none", "output_skip", "residual"),
    "progressive_input": ("none", "input_skip", "residual"),
    "progressive_combine": ("sum", "cat"),
    "fir_kernel": (None, (1, 3, 3, 1), (1, 1), (1, 4, 10, 4, 1, 2)),
    "embedding_type": ("positional", "fourier"),
    "skip_rescale": (True, False),
}


def combinations() -> list[dict[str, Any]]:
    """Returns all combinations except meaningless ones: a kernel of six taps and sums without a scale once
    each, cat without a skip, and the residual output with a filter, which the original cannot compute.
    """
    found = []
    for values in itertools.product(*CHOICES.values()):
        options = dict(zip(CHOICES, values, strict=True))
        plain = options["embedding_type"] == "fourier" and options["progressive_input"] == "residual"
        if options["progressive"] == "residual" and options["fir_kernel"]:
            continue
        if options["progressive_combine"] == "cat" and options["progressive_input"] != "input_skip":
            continue
        if not plain and (not options["skip_rescale"] or options["fir_kernel"] not in (None, (1, 3, 3, 1))):
            continue
        found.append(options)
    return found


def reference(state: dict[str, Tensor], x: Tensor, labels: Tensor, options: dict[str, Any]) -> Tensor:
    """Network output by the names in `state`, taken in the order of their numbers."""
    layers = iter(range(1000))
    scale = math.sqrt(0.5) if options["skip_rescale"] else 1.0
    kernel = options["fir_kernel"]

    def get(number: int, name: str) -> Tensor:
        return state[f"all_modules.{number}.{name}"]

    def conv(h: Tensor, number: int, name: str = "", **changes: Any) -> Tensor:
        weight, bias = (get(number, f"{name}{part}") for part in ("weight", "bias"))
        return F.conv2d(h, weight, bias, **{"padding": weight.shape[-1] // 2} | changes)

    def norm(h: Tensor, number: int, name: str = "") -> Tensor:
        groups = min(h.shape[1] // 4, 32)
        return F.group_norm(h, groups, get(number, f"{name}weight"), get(number, f"{name}bias"), 1e-6)

    def filtered(h: Tensor, taps: Tensor, before: int, after: int) -> Tensor:
        """Each channel, with zeros around it, convolved with the kernel's outer product."""
        flat = F.pad(h, (before, after, before, after)).flatten(0, 1)[:, None]
        return F.conv2d(flat, taps.outer(taps).flip(0, 1)[None, None])[:, 0].unflatten(0, h.shape[:2])

    def down(h: Tensor) -> Tensor:
        if not kernel:
            return h.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean((3, 5))
        taps, pad = torch.tensor(kernel) / sum(kernel), len(kernel) - 2
        return filtered(h, taps, (pad + 1) // 2, pad // 2)[:, :, ::2, ::2]

    def up(h: Tensor) -> Tensor:
        if not kernel:
            return h.repeat_interleave(2, 2).repeat_interleave(2, 3)
        wide = torch.zeros(*h.shape[:2], 2 * h.shape[2], 2 * h.shape[3])
        wide[:, :, ::2, ::2] = h
        taps, pad = 2 * torch.tensor(kernel) / sum(kernel), len(kernel) - 2
        return filtered(wide, taps, (pad + 1) // 2 + 1, pad // 2)

    def block(h: Tensor, resample: Any = None) -> Tensor:
        number, inner, outer = next(layers), None, h
        inner = F.silu(norm(h, number, "GroupNorm_0."))
        if resample is not None:
            inner, outer = resample(inner), resample(outer)
        inner = conv(inner, number, "Conv_0.")
        inner = (
            inner + F.linear(emb, get(number, "Dense_0.weight"), get(number, "Dense_0.bias"))[..., None, None]
        )
        inner = conv(F.silu(norm(inner, number, "GroupNorm_1.")), number, "Conv_1.")
        if resample is not None or outer.shape[1] != inner.shape[1]:
            outer = conv(outer, number, "Conv_2.")
        return (outer + inner) * scale

    def attention(h: Tensor) -> Tensor:
        number = next(layers)

        def mix(value: Tensor, name: str) -> Tensor:
            mixed = torch.einsum("bchw,cd->bdhw", value, get(number, f"{name}.W"))
            return mixed + get(number, f"{name}.b")[:, None, None]

        q, k, v = (mix(norm(h, number, "GroupNorm_0."), f"NIN_{i}").flatten(2) for i in range(3))
        weights = (torch.einsum("bci,bcj->bij", q, k) / math.sqrt(h.shape[1])).softmax(-1)
        return (h + mix(torch.einsum("bij,bcj->bci", weights, v).reshape(h.shape), "NIN_3")) * scale

    if options["embedding_type"] == "fourier":
        angles = labels.log()[:, None] * get(next(layers), "W") * 2 * math.pi
    else:
        half = state["all_modules.0.weight"].shape[1] // 2
        angles = labels[:, None] * 10000 ** (-torch.arange(half) / (half - 1))
    first, second = next(layers), next(layers)
    emb = F.linear(torch.cat([angles.sin(), angles.cos()], 1), get(first, "weight"), get(first, "bias"))
    emb = F.silu(F.linear(F.silu(emb), get(second, "weight"), get(second, "bias")))

    h = conv(x, next(layers))
    skips, pyramid = [h], x
    for level in range(len(MULTS)):
        if level:
            h = block(h, down)
            if options["progressive_input"] == "residual":
                number = next(layers)
                if kernel:
                    taps, pad = torch.tensor(kernel) / sum(kernel), len(kernel)
                    smooth = filtered(pyramid, taps, (pad + 1) // 2, pad // 2)
                    lower = conv(smooth, number, "Conv2d_0.", stride=2, padding=0)
                else:
                    lower = conv(F.pad(pyramid, (0, 1, 0, 1)), number, "Conv_0.", stride=2, padding=0)
                h = pyramid = (lower + h) * scale
            elif options["progressive_input"] == "input_skip":
                pyramid = down(pyramid)
                joined = conv(pyramid, next(layers), "Conv_0.")
                h = joined + h if options["progressive_combine"] == "sum" else torch.cat([joined, h], 1)
            skips.append(h)
        for _ in range(BLOCKS):
            h = block(h)
            h = attention(h) if SIDE >> level == 4 else h
            skips.append(h)
    h = block(attention(block(h)))
    image = None
    for level in reversed(range(len(MULTS))):
        for _ in range(BLOCKS + 1):
            h = block(torch.cat([h, skips.pop()], 1))
        h = attention(h) if SIDE >> level == 4 else h
        if options["progressive"] == "residual" and image is not None:
            number = next(layers)
            doubled = image.repeat_interleave(2, 2).repeat_interleave(2, 3)
            h = image = (conv(doubled, number, "Conv_0.") + h) * scale
        elif options["progressive"] != "none":
            head = conv(F.silu(norm(h, next(layers))), next(layers))
            image = head if image is None else up(image) + head
        h = block(h, up) if level else h
    if options["progressive"] == "output_skip":
        assert image is not None
        return image
    return conv(F.silu(norm(h, next(layers))), next(layers))


@pytest.mark.parametrize("options", combinations(), ids=lambda options: "-".join(map(str, options.values())))
def test_the_network_is_the_described_one_in_every_combination_of_its_options(
    options: dict[str, Any],
) -> None:
    torch.manual_seed(0)
    settings: dict[str, Any] = options | {"fir": options["fir_kernel"] is not None}
    settings["fir_kernel"] = options["fir_kernel"] or (1, 3, 3, 1)
    network = NCSNppModule(
        image_size=SIDE, nf=8, ch_mult=MULTS, num_res_blocks=BLOCKS, attn_resolutions=(4,), **settings
    ).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape)
                parameter.copy_(
                    noise / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 1 + 0.2 * noise
                )
        x, labels = torch.randn(2, 3, SIDE, SIDE), torch.tensor([0.7, 300.0])
        found, expected = network(x, labels), reference(network.state_dict(), x, labels, options)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-5 * float(expected.abs().max()))

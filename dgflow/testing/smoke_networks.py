"""Networks, samplers and sides at toy width: what a smoke run puts in the place of the published ones.

Promises the same classes with the same options that change what is computed, so that the same code runs, and
sides and channels that still fit each other: images, the latents of their autoencoder, the classifiers of
both. Steps are rewritten in `smoke`.
"""

from __future__ import annotations

from dgflow.diffusion.sampler_specs import SamplerSpec
from dgflow.networks.lsgm.spec import TOY_GROUPS, TOY_PER_GROUP
from dgflow.specs.network import NetworkSpec
from dgflow.specs.spec import Spec

_LATENTS = 4  # channels of Stable Diffusion's; NVAE's have many more


def toy_shape(side: int, channels: int) -> tuple[int, int]:
    """(side, channels) in the place of those of images or latents: 256 pixels become 64, 64 and 32 become 16,
    and latents follow.

    Which they are, the channels say: 1 or 3 are images, 4 latents of Stable Diffusion's autoencoder, more
        those of NVAE.
    """
    if channels > _LATENTS:
        return max(8, side // 2), TOY_GROUPS * TOY_PER_GROUP
    if channels == _LATENTS or side >= 64:
        return max(8, side // 4), channels
    return (side // 2 if side >= 32 else side), channels


def toy_spec(spec: Spec, factor: int) -> Spec:
    """`spec` at toy width, if it is a network or a sampler; `factor` is what sides are divided by."""
    if isinstance(spec, NetworkSpec):
        return spec.toy(factor)
    return spec.toy() if isinstance(spec, SamplerSpec) else spec

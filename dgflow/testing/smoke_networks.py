"""Networks, samplers and sides at toy width: what a smoke run puts in the place of the published ones.

Promises the same classes with the same options that change what is computed, so that the same code runs, and
sides and channels that still fit each other: images, the latents of their autoencoder, the classifiers of
both. Steps are rewritten in `smoke`.
"""

from __future__ import annotations

from typing import Any

from dgflow.diffusion.sampler_specs import DDIM, DDPM, RK45, EDMAblation, Heun
from dgflow.networks.adm.spec import ADMEncoder, ADMUNet
from dgflow.networks.ddpm.spec import DDPMUNet
from dgflow.networks.dit.spec import DiT
from dgflow.networks.edm.spec import DhariwalUNet, SongUNet
from dgflow.networks.lsgm.spec import NVAE, LSGMPrior
from dgflow.networks.ncsnpp.spec import NCSNpp
from dgflow.networks.stable_diffusion.spec import StableDiffusionVAE
from dgflow.specs.spec import Spec

GROUPS, PER_GROUP = 2, 3  # of NVAE's latents, in the place of 20 and 9
SHARED_BLOCK = 4  # divides the toy steps' shard_size
_LATENTS = 4  # channels of Stable Diffusion's; NVAE's have many more


def toy_shape(side: int, channels: int) -> tuple[int, int]:
    """(side, channels) in the place of those of images or latents: 256 pixels become 64, 64 and 32 become 16,
    and latents follow.

    Which they are, the channels say: 1 or 3 are images, 4 latents of Stable Diffusion's autoencoder, more
        those of NVAE.
    """
    if channels > _LATENTS:
        return max(8, side // 2), GROUPS * PER_GROUP
    if channels == _LATENTS or side >= 64:
        return max(8, side // 4), channels
    return (side // 2 if side >= 32 else side), channels


def toy_spec(spec: Spec, factor: int) -> Spec:
    """`spec` at toy width, if it is a network or a sampler; `factor` is what sides are divided by."""
    change = _change(spec, factor)
    return spec.model_copy(update=change) if change else spec


def _change(spec: Spec, factor: int) -> dict[str, Any]:
    match spec:
        case SongUNet():
            resolutions = _divided(spec.attn_resolutions, factor)
            return {
                "model_channels": min(16, spec.model_channels),
                "num_blocks": 1,
                "attn_resolutions": resolutions,
            }
        case DhariwalUNet():  # its heads have 64 channels
            return {"model_channels": 64, "channel_mult": _capped(spec.channel_mult, 1), "num_blocks": 1} | {
                "attn_resolutions": _divided(spec.attn_resolutions, factor)
            }
        case ADMUNet() | ADMEncoder():  # widths are multiples of 32
            heads = None if spec.num_head_channels is None else 32
            return {
                "model_channels": 32,
                "channel_mult": _capped(spec.channel_mult, 2),
                "num_res_blocks": 1,
                "num_head_channels": heads,
            }
        case DiT():
            return {"hidden_size": 64, "depth": 2, "num_heads": 4}
        case NCSNpp():
            return {
                "nf": 16,
                "num_res_blocks": 1,
                "attn_resolutions": _divided(spec.attn_resolutions, factor),
            }
        case LSGMPrior():
            resolutions = _divided(spec.attn_resolutions, factor)
            return {
                "num_channels": 32,
                "num_res_blocks": 1,
                "embedding_dim": 32,
                "attn_resolutions": resolutions,
            }
        case DDPMUNet():  # 32 groups
            return {"ch": 32, "ch_mult": _capped(spec.ch_mult, 2), "num_res_blocks": 1} | {
                "attn_resolutions": _divided(spec.attn_resolutions, factor)
            }
        case StableDiffusionVAE():
            return {
                "block_out_channels": (32,) * len(spec.block_out_channels),
                "layers_per_block": 1,
                "norm_num_groups": 8,
            }
        case NVAE():
            cells = (
                "num_preprocess_cells",
                "num_postprocess_cells",
                "num_cell_per_cond_enc",
                "num_cell_per_cond_dec",
            )
            widths = {"num_channels_enc": 16, "num_channels_dec": 16}
            return (
                {"num_groups_per_scale": GROUPS, "num_latent_per_group": PER_GROUP}
                | widths
                | dict.fromkeys(cells, 1)
            )
        case Heun() | EDMAblation():
            return {"steps": min(6, spec.steps)}
        case DDPM():
            return {"respacing": _respaced(spec.respacing)}
        case DDIM():
            return {"respacing": _respaced(spec.respacing)}
        case RK45():
            return {
                "tolerance": max(0.1, spec.tolerance),
                "shared_block": None if spec.shared_block is None else SHARED_BLOCK,
            }
    return {}


def _divided(sides: tuple[int, ...], factor: int) -> tuple[int, ...]:
    return tuple(max(1, side // factor) for side in sides)


def _capped(multiples: tuple[Any, ...], most: int) -> tuple[Any, ...]:
    return tuple(min(multiple, most) for multiple in multiples)


def _respaced(respacing: str) -> str:
    """Ten steps, in as many sections or by as fixed a stride."""
    if respacing.startswith("ddim"):
        return "ddim10"
    sections = respacing.split(",")
    return ",".join([str(max(2, 10 // len(sections)))] * len(sections))

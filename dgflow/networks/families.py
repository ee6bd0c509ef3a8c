"""The score networks that there are."""

from __future__ import annotations

from dgflow.networks.adm.spec import ADMUNet
from dgflow.networks.ddpm.spec import DDPMUNet
from dgflow.networks.dit.spec import DiT
from dgflow.networks.edm.spec import DhariwalUNet, SongUNet
from dgflow.networks.lsgm.spec import LSGMPrior
from dgflow.networks.ncsnpp.spec import NCSNpp
from dgflow.networks.own.spec import OwnDenoiser

ScoreNetwork = SongUNet | DhariwalUNet | ADMUNet | DiT | NCSNpp | LSGMPrior | DDPMUNet | OwnDenoiser
LATENT = (DiT, LSGMPrior)
"""Those whose samples are latents."""

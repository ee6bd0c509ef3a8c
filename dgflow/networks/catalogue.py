"""The catalogue of official files: location, network, licence and published results of each.

No fact is guessed. No checksum is listed, since none is known. Does not load torch. `dgflow.weights.fetch`
fetches the files.
"""

from __future__ import annotations

from dgflow.networks.adm import published as adm
from dgflow.networks.discriminator import published as discriminator
from dgflow.networks.dit import published as dit
from dgflow.networks.edm import published as edm
from dgflow.networks.edm2 import published as edm2
from dgflow.networks.inception import published as inception
from dgflow.networks.lsgm import published as lsgm
from dgflow.networks.ncsnpp import published as ncsnpp
from dgflow.networks.published import PublishedFile
from dgflow.networks.stable_diffusion import published as stable_diffusion
from dgflow.specs.mistakes import did_you_mean

CATALOGUE: dict[str, PublishedFile] = {
    file.name: file
    for family in (edm, edm2, inception, adm, dit, stable_diffusion, discriminator, lsgm, ncsnpp)
    for file in family.FILES
}


def catalogue_file(name: str) -> PublishedFile:
    """The entry called `name`. Raises ValueError that lists all names if there is none."""
    if name not in CATALOGUE:
        near = did_you_mean(name, CATALOGUE)
        raise ValueError(f"expected one of {', '.join(CATALOGUE)}; found {name!r}{near}")
    return CATALOGUE[name]

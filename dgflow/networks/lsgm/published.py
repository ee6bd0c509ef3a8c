"""Published file of LSGM: prior and autoencoder of the CIFAR-10 model with the best FID."""

from __future__ import annotations

from dgflow.networks.lsgm.spec import NVAE, LSGMPrior
from dgflow.networks.published import Published, PublishedFile

FILES = (
    PublishedFile(
        name="lsgm-cifar10",
        file_name="checkpoint.pt",
        source=None,
        format="lsgm",
        network={"prior": Published(LSGMPrior(), 16, channels=180), "vae": Published(NVAE(), 32)},
        licence="NVIDIA Source Code License (non-commercial)",
        page="https://drive.google.com/drive/folders/16kbwAeDZyCu1YRCXAXeh-KRyq8M09Rb0 (cifar10, best FID: "
        "lsgm2)",
        image_size=32,
        published_fid=2.10,
        fid_note="138 evaluations",
    ),
)

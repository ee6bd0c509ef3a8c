"""Published files of Discriminator Guidance. They are on Google Drive, whose confirmation pages stop
automatic downloads.
"""

from __future__ import annotations

from dgflow.networks.adm.spec import ADMEncoder
from dgflow.networks.discriminator.spec import Discriminator
from dgflow.networks.published import NONE_STATED, Published, PublishedFile


def _file(name: str, file_name: str, drive_id: str, network: Published) -> PublishedFile:
    return PublishedFile(
        name=f"dg-{name}",
        file_name=file_name,
        source=None,
        format="state_dict",
        network={"": network},
        licence=NONE_STATED,
        page=f"https://drive.google.com/file/d/{drive_id}/view",
        image_size=32,
    )


def _head(features: str, channels: int = 3, *, conditional: bool) -> Published:
    """A discriminator on a classifier's features; a conditional one has 1000 label rows, regardless of the
    data.
    """
    return Published(Discriminator(), 32, channels, 1000 if conditional else 0, {"features": features})


# The feature networks are classifiers of 1000 classes, regardless of the data.
_CLASSIFIER_32 = ADMEncoder(num_res_blocks=4, attention_resolutions=(1, 2, 4), channel_mult=(1, 2, 4))
_CLASSIFIER_LATENT = ADMEncoder(attention_resolutions=(1, 2, 4), channel_mult=(1, 2, 3), time="ddpm-linear")
FILES = (
    _file(
        "cifar10-classifier",
        "32x32_classifier.pt",
        "1gb68C13-QOt8yA6ZnnS6G5pVIlPO7j_y",
        Published(_CLASSIFIER_32, 32, num_classes=1000),
    ),
    _file(
        "cifar10-uncond",
        "discriminator_60.pt",
        "1Mf3F1yGfWT8bO0_iOBX-PWG3O-OLROE2",
        _head("dg-cifar10-classifier", conditional=False),
    ),
    _file(
        "cifar10-cond",
        "discriminator_250.pt",
        "1P1u7cz7kY1BJDPVrPNiFcksy_HCHY_bI",
        _head("dg-cifar10-classifier", conditional=True),
    ),
    _file(
        "imagenet256-classifier",
        "32x32_classifier.pt",
        "1yxjvfIW6HvLSJHACkC5-5U46Mny81SSI",
        Published(_CLASSIFIER_LATENT, 32, channels=4, num_classes=1000),
    ),
    _file(
        "imagenet256-dit",
        "discriminator_7.pt",
        "1-2ytbvo7yG2X3Z65XNugBhPRKangvZgg",
        _head("dg-imagenet256-classifier", 4, conditional=True),
    ),
)

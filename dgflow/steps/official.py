"""The published networks of the catalogue, as what other steps take:
`official("edm-cifar10-32x32-uncond-vp")`.

Which time a classifier is told, and on which classifier's features a discriminator was trained, is known
here; where the files are and under which licence, in `dgflow.weights.catalogue`.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from dgflow.networks.adm.spec import ADMEncoder
from dgflow.networks.adm.times import TimeName
from dgflow.networks.discriminator.spec import Discriminator
from dgflow.networks.families import FAMILIES
from dgflow.networks.inception.spec import InceptionV3
from dgflow.networks.stable_diffusion.spec import StableDiffusionVAE
from dgflow.specs.spec import Spec
from dgflow.specs.step import Weights
from dgflow.steps.pretrained import Pretrained
from dgflow.weights.catalogue import catalogue_file

Kind = TypeVar("Kind", bound=Spec)

# OpenAI's 256-pixel classifier and that of DiT's latents know the steps of DDPM, OpenAI's 64-pixel one those
# of the cosine schedule.
TIMES: dict[str, TimeName] = {
    "adm-imagenet-64x64-classifier": "cosine-vp",
    "adm-imagenet-256x256-classifier": "ddpm-linear",
    "dg-imagenet256-classifier": "ddpm-linear",
}
FEATURES = {
    "dg-cifar10-uncond": "dg-cifar10-classifier",
    "dg-cifar10-cond": "dg-cifar10-classifier",
    "dg-imagenet256-dit": "dg-imagenet256-classifier",
}


def official(name: str, part: Literal["prior", "vae"] | None = None) -> Weights:
    """The weights of a published score network, classifier, discriminator, autoencoder or feature network.

    Args:
        part: which network of a file that has two, LSGM's: the prior (None too), or the autoencoder.

    Raises:
        ValueError: there is no such file, with the names there are; or it has no such part, or no network
            that a step can take.
    """
    file = catalogue_file(name)
    if part is not None and part not in file.network:
        raise ValueError(
            f"expected no part of {name}, which is one network, found {part!r}: only the files of LSGM "
            "have parts"
        )
    network = file.network.get(part or "prior", file.network)
    inner = network.get("model", network)
    if inner.get("class") == "InceptionV3":
        inception = InceptionV3()
        return Pretrained(
            source=name, network=inception, image_size=299, num_classes=1008, format=file.format
        ).weights()  # type: ignore[arg-type]
    kinds = {kind.__name__: kind for kind in FAMILIES}
    if name in FEATURES:
        features = official(FEATURES[name])
        assert isinstance(features.step, Pretrained)
        found: dict[str, Any] = {
            "network": Discriminator(head=_spec(ADMEncoder, network), features=features),
            "image_size": features.step.image_size,
            "channels": features.step.channels,
            "num_classes": network["num_classes"] or 0,
        }
    elif inner.get("class") == "ADMEncoder":
        told = _spec(ADMEncoder, network).model_copy(update={"time": TIMES.get(name, "linear-vp")})
        found = {"network": told, "channels": network["in_channels"], "num_classes": network["out_channels"]}
    elif inner.get("class") == "StableDiffusionVAE":
        found = {"network": _spec(StableDiffusionVAE, {**network["config"], "scale": network["scale"]})}
    elif inner.get("class") in kinds:
        channels = next(
            inner[key]
            for key in ("num_input_channels", "img_channels", "in_channels", "num_channels")
            if key in inner
        )
        classes = inner.get("label_dim", inner.get("num_classes")) or 0
        found = {"network": _spec(kinds[inner["class"]], inner), "channels": channels, "num_classes": classes}
    else:
        raise ValueError(
            f"expected a score network, a classifier, a discriminator or an autoencoder, found {name}: "
            f"{inner.get('class', 'no network')}"
        )
    side = next(
        (inner[key] for key in ("image_size", "img_resolution", "input_size") if key in inner),
        file.image_size,
    )
    return Pretrained(source=name, format=file.format, **{"image_size": side, **found}).weights()  # type: ignore[arg-type]


def _spec(kind: type[Kind], arguments: dict[str, Any]) -> Kind:
    """The spec of a network whose constructor takes `arguments`; those of the data (sizes, channels, classes)
    are not the spec's."""
    known = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in arguments.items()
        if name in kind.model_fields
    }
    return kind(**known)

"""The guidance gradients of ADM, ED-DPM and DiT-G++ against the numbers of the reference implementations.

Their state is y = x / sqrt(1 + sigma^2) at a timestep of the linear schedule of 1000 steps; terms are asked
in x, as samplers do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from parity.goldens import Case, cases, close, load
from torch import Tensor

from dgflow.diffusion.classifier_guidance import (
    ENTROPY_FLOOR,
    Classifier,
    ClassifierTerm,
    entropy,
    entropy_scale,
    logits_and_gradient,
)
from dgflow.diffusion.discrete import DiscreteSchedule
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
from dgflow.diffusion.guidance import GuidanceTerm, Point
from dgflow.diffusion.guidance_settings import ClassifierSettings, DiscriminatorSettings
from dgflow.diffusion.times import per_sample
from dgflow.networks.adm.encoder import ADMEncoderModule
from dgflow.networks.discriminator.module import DiscriminatorModule
from dgflow.weights.tensors import load_into

SCHEDULE = DiscreteSchedule.of("linear", 1000)


def outputs(case: Case) -> set[str]:
    return {name for name in case.entry["arrays"] if name.startswith("out_")}


def is_classifier_gradient(case: Case) -> bool:
    return "main.cond_fn" in case.reference and outputs(case) == {"out_logits", "out_grad"}


def is_entropy_scaling_of_a_network(case: Case) -> bool:
    return {"out_logits", "out_gradient", "out_scale", "out_guidance"} <= outputs(case)


def is_entropy_scaling_of_logits(case: Case) -> bool:
    return "in_logits" in case.entry["arrays"] and {"out_scale", "out_entropy", "out_guidance"} <= outputs(
        case
    )


def is_latent_discriminator(case: Case) -> bool:
    return any(name.startswith("out_cond_fn_t") for name in outputs(case))


CLAIMS: list[Callable[[Case], bool]] = [
    is_classifier_gradient,
    is_entropy_scaling_of_a_network,
    is_entropy_scaling_of_logits,
    is_latent_discriminator,
]


def encoder(
    config: dict[str, Any], weights: dict[str, Tensor], name: str, time_scale: float
) -> ADMEncoderModule:
    options = {
        key: value for key, value in config.items() if key not in ("use_fp16", "condition", "num_class")
    }
    net = ADMEncoderModule(
        **options, num_classes=config["num_class"] if config.get("condition") else None, time_scale=time_scale
    )
    load_into(net, weights, source=name)
    return net.eval().requires_grad_(False)


def in_x(y: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """(x, sigma [B]) of states y at timesteps [B]."""
    sigma = torch.tensor(SCHEDULE.original_sigmas, dtype=torch.float64)[timesteps]
    return y.double() * per_sample((1 + sigma**2).sqrt(), y), sigma


def gradient_in_y(term: GuidanceTerm, y: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
    """The gradient that a term adds to the score of y; zero if it returns None."""
    x, sigma = in_x(y, timesteps)
    gradient, _ = term(Point(x, sigma, labels, 0, 1, (float(sigma.min()), float(sigma.max()))))
    return torch.zeros_like(x) if gradient is None else gradient * per_sample((1 + sigma**2).sqrt(), y)


def plain_and_logits(
    classifier: Classifier, arrays: dict[str, Tensor], labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits and gradient in y, without weight."""
    x, sigma = in_x(arrays["in_x"], arrays["in_t"])
    logits, gradient = logits_and_gradient(classifier, x, sigma, labels, time=SCHEDULE.timesteps_from_sigma())
    return logits, gradient * per_sample((1 + sigma**2).sqrt(), x)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    return torch.nn.functional.one_hot(labels, classes).float()


@pytest.mark.parametrize("case", cases(is_classifier_gradient))
def test_the_gradient_of_the_classifier_is_the_published_one(case: Case) -> None:
    config, arrays, weights = load(case)
    net = encoder(config["classifier"], weights["classifier"], "classifier", 1.0)
    logits, _ = plain_and_logits(net, arrays, arrays["in_y"])
    close(case, "logits", logits, arrays["out_logits"], rtol=1e-4, of_max=1e-5)
    term = ClassifierTerm(
        net, ClassifierSettings(weight=config["classifier_scale"]), time=SCHEDULE.timesteps_from_sigma()
    )
    for labels in (arrays["in_y"], one_hot(arrays["in_y"], logits.shape[1])):
        close(
            case,
            "grad",
            gradient_in_y(term, arrays["in_x"], arrays["in_t"], labels),
            arrays["out_grad"],
            of_max=1e-4,
        )


@pytest.mark.parametrize("case", cases(is_entropy_scaling_of_a_network))
def test_entropy_scaling_of_a_network_is_the_published_one(case: Case) -> None:
    """Equal with and without the floor, which no sample here approaches."""
    config, arrays, weights = load(case)
    net = encoder(config["classifier"], weights["classifier"], "classifier", 1.0)
    scale, of_classes = config["classifier_scale"], math.log(config["NUM_CLASSES"]) / math.log(1000)
    logits, gradient = plain_and_logits(net, arrays, arrays["in_y"])
    close(case, "logits", logits, arrays["out_logits"], rtol=1e-4, of_max=1e-5)
    close(case, "gradient", gradient, arrays["out_gradient"], of_max=1e-4)
    close(case, "scale", scale * of_classes * entropy_scale(logits), arrays["out_scale"], rtol=1e-4)
    plain = ClassifierTerm(net, ClassifierSettings(weight=scale), time=SCHEDULE.timesteps_from_sigma())
    close(
        case,
        "plain_guidance",
        gradient_in_y(plain, arrays["in_x"], arrays["in_t"], arrays["in_y"]),
        arrays["out_plain_guidance"],
        of_max=1e-4,
    )
    for floor in (ENTROPY_FLOOR, 0.0):
        scaled = ClassifierSettings(weight=scale * of_classes, entropy_scaling=True, entropy_floor=floor)
        term = replace(plain, settings=scaled)
        close(
            case,
            "guidance",
            gradient_in_y(term, arrays["in_x"], arrays["in_t"], arrays["in_y"]),
            arrays["out_guidance"],
            of_max=1e-4,
        )


# A sure answer's softmax sums to 1 and a little more: float32 knows that sum, and so an entropy and 1 - p, to
# a few 2^-24.
ENTROPY_ROUNDING = 8 * 2**-24  # nats
GRADIENT_ROUNDING = 16 * ENTROPY_ROUNDING  # of 1 - p, which is a sixteenth of the entropy or so


def rows_of(case: Case, key: str, found: Tensor, expected: Tensor, entropies: Tensor) -> None:
    """Row by row, as rows differ by forty orders of magnitude: relative, with what float32 leaves of each
    row's entropy."""
    fine, rounding = (1e-4, GRADIENT_ROUNDING) if found.ndim > 1 else (1e-5, ENTROPY_ROUNDING)
    for i, nats in enumerate(entropies.tolist()):
        relative = fine + (
            rounding / nats if nats else 0.0
        )  # of an entropy of 0 all is exact: infinite, or 0
        close(case, key, found[i : i + 1], expected[i : i + 1], of_max=relative)


@pytest.mark.parametrize("case", cases(is_entropy_scaling_of_logits))
def test_entropy_scaling_of_logits_is_the_published_one_to_its_infinities(case: Case) -> None:
    """The classifier's logits are as given at y = 0, plus a linear function of y."""
    config, arrays, _ = load(case)
    logits, matrix, labels, scale = (
        arrays["in_logits"],
        arrays["in_W"],
        arrays["in_y"],
        float(arrays["in_classifier_scale"]),
    )
    classes, nats = config["NUM_CLASSES"], arrays["out_entropy"]
    of_classes = math.log(classes) / math.log(1000)
    assert arrays["out_scale_full_shape"].tolist() == list(
        arrays["out_gradient"].shape
    )  # one scale a sample, published as full tensors

    def classifier(y: Tensor, time: Tensor) -> Tensor:
        return logits + y.flatten(1) @ matrix

    y, timesteps = torch.zeros_like(arrays["out_gradient"]), torch.full((len(labels),), 500)
    rows_of(case, "scale", scale * of_classes * entropy_scale(logits, floor=0.0), arrays["out_scale"], nats)
    rows_of(case, "entropy", entropy(logits), nats, nats)
    rows_of(
        case,
        "normalized_entropy",
        entropy(logits) / math.log(classes),
        arrays["out_normalized_entropy"],
        nats,
    )

    plain = ClassifierTerm(classifier, ClassifierSettings(weight=scale))
    rows_of(
        case,
        "gradient",
        gradient_in_y(ClassifierTerm(classifier), y, timesteps, labels),
        arrays["out_gradient"],
        nats,
    )
    rows_of(
        case, "plain_guidance", gradient_in_y(plain, y, timesteps, labels), arrays["out_plain_guidance"], nats
    )
    scaled = ClassifierSettings(weight=scale * of_classes, entropy_scaling=True, entropy_floor=0.0)
    without_floor = ClassifierTerm(classifier, scaled)
    rows_of(
        case, "guidance", gradient_in_y(without_floor, y, timesteps, labels), arrays["out_guidance"], nats
    )

    settings = scaled.model_copy(update={"entropy_floor": 1e-4})
    floored = gradient_in_y(ClassifierTerm(classifier, settings), y, timesteps, labels)
    assert bool(floored.isfinite().all())
    above = (nats > 1e-4).nonzero()[:, 0]
    rows_of(case, "guidance", floored[above], arrays["out_guidance"][above], nats[above])


@pytest.mark.parametrize("saturate", [False, True], ids=["logit", "saturate"])
@pytest.mark.parametrize("case", cases(is_latent_discriminator))
def test_the_gradient_of_the_latent_discriminator_is_the_published_one(case: Case, saturate: bool) -> None:
    """The published batch holds every sample twice, for classifier-free guidance; its second half gets a copy
    of the first's gradient."""
    config, arrays, weights = load(case)
    features, head = (encoder(config[name], weights[name], name, 999.0) for name in ("classifier", "disc"))
    net, seen = DiscriminatorModule(features, head).eval(), {}
    n = len(arrays["in_x"]) // 2
    y, labels = arrays["in_x"][:n], arrays["in_y"][:n]
    time = SCHEDULE.timesteps_from_sigma(1 / (SCHEDULE.original_num_steps - 1))
    term = DiscriminatorTerm(
        net,
        DiscriminatorSettings(
            weight=config["dg_scale"], tau_min=SCHEDULE.tau_after(config["time_min"]), saturate=saturate
        ),
        time=time,
    )
    for name in sorted(outputs(case)):
        timestep = int(re.sub(r"\D*", "", name))
        timesteps = torch.full((n,), timestep)
        if name.startswith("out_cond_fn_t"):
            gradient = gradient_in_y(term, y, timesteps, labels)
            close(case, name, torch.cat([gradient, gradient]), arrays[name], of_max=1e-4)
            seen[timestep] = bool((gradient != 0).any())
        else:
            assert name.startswith("out_sigmoid_t")
            told = time(in_x(y, timesteps)[1]).float()
            close(case, name, net(y, told, labels).sigmoid(), arrays[name], rtol=1e-5)
    assert all(guided == (timestep > config["time_min"]) for timestep, guided in seen.items())

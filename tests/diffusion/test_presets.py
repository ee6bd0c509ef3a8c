"""The published settings, built into terms: the effective weight at each timestep, sign of the log-ratio and
parity of the step."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from dgflow import official
from dgflow.diffusion.classifier_free import ClassifierFreePredictor
from dgflow.diffusion.classifier_guidance import ClassifierTerm
from dgflow.diffusion.correction_presets import NETWORK_ROWS, SCALING_ROWS, epsilon_scaling, network_guidance
from dgflow.diffusion.correction_specs import EpsilonScaling, NetworkGuidance
from dgflow.diffusion.discrete import DiscreteSchedule
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
from dgflow.diffusion.guidance import GuidanceTerm, Point, guide
from dgflow.diffusion.heun import edm_sigmas, heun
from dgflow.diffusion.presets import ADM_GPP, DIT_GPP, EDM_GPP, ADMRow, adm_gpp, dit_gpp, edm_gpp
from dgflow.diffusion.score_model import ScoreModel
from dgflow.diffusion.times import cosine_from_sigma, tau_from_sigma

SCHEDULE = DiscreteSchedule.of("linear", 1000)
TIMESTEPS = (0, 99, 100, 101, 200, 599, 600, 601, 649, 650, 651, 998, 999)
SIGNS = torch.tensor([1.0, -1.0])


def two_signs(y: Tensor, time: Tensor, class_labels: Tensor | None) -> Tensor:
    """Log-ratio +1 and -1, gradient (1, 0) for both."""
    return SIGNS + (y - y.detach())[:, 0]


def half(y: Tensor, time: Tensor) -> Tensor:
    """Returns class 0 with probability 1/2, with the gradient of its log along the second coordinate."""
    return torch.stack([(y - y.detach())[:, 1], torch.zeros(len(y))], dim=1)


def adm_terms(row: ADMRow, entropy_scaling: bool) -> list[GuidanceTerm]:
    classifier = row.classifier.model_copy(update={"entropy_scaling": entropy_scaling})
    return [ClassifierTerm(half, classifier), DiscriminatorTerm(two_signs, row.discriminator)]


def gradient_at(terms: list[GuidanceTerm], timestep: int, step: int) -> Tensor:
    """Returns the gradient in y, for two samples."""
    sigma = SCHEDULE.original_sigmas[timestep]
    levels = torch.full((2,), sigma, dtype=torch.float64)
    point = Point(
        torch.zeros(2, 2).double(), levels, torch.zeros(2, dtype=torch.int64), step, 1, (sigma, sigma)
    )
    gradient = guide(terms, point).gradient
    assert gradient is not None
    return gradient * (1 + sigma**2) ** 0.5


# (classifier above, below), discriminator of samples that look (real, fake) in even steps, above and below;
# the switch's timestep.
DECODED = {
    "3.18": ((0.75, 1.5), (1.0, 1.0), (1.0, 0.75), 650),
    "3.73": ((0.25, 1.5), (1.0, 3.0), (1.0, 0.75), 650),
    "4.66": ((0.25, 1.5), (1.0, 3.0), (1.0, 0.75), 600),
    "4.45": ((0.1, 2.0), (1.0, 5.0), (1.0, 0.5), 600),
}


@pytest.mark.parametrize("name", DECODED)
def test_adm_gpp_has_the_published_weights_at_every_timestep(name: str) -> None:
    row = ADM_GPP[name]
    classifier, above, below, switch = DECODED[name]
    assert row.published_fid == float(name) and row.classifier.entropy_scaling and row.num_steps == 250
    for timestep in TIMESTEPS:
        side = 0 if timestep > switch else 1
        for step in (0, 1):
            found = gradient_at(adm_terms(row, entropy_scaling=False), timestep, step)
            # The classifier's own gradient is 1 - p = 1/2 of the second coordinate, and the discriminator's
            # is scaled to its norm.
            strength = 0.5 * classifier[side]
            real, fake = (above, below)[side]
            wanted = (
                torch.tensor([real, fake if step % 2 == 0 else real]).double() * strength * (timestep > 100)
            )
            torch.testing.assert_close(
                found[:, 1], torch.full((2,), strength, dtype=torch.float64), rtol=1e-6, atol=0
            )
            torch.testing.assert_close(found[:, 0], wanted, rtol=1e-6, atol=1e-12)


def test_with_entropy_scaling_both_terms_of_adm_gpp_grow_alike() -> None:
    """The classifier's entropy is log 2, so the factor is log(1000) / log(2) = 9.966."""
    row = ADM_GPP["3.18"]
    plain, scaled = (
        gradient_at(adm_terms(row, entropy_scaling), 651, 0) for entropy_scaling in (False, True)
    )
    torch.testing.assert_close(
        scaled / plain, torch.full((2, 2), 9.965784, dtype=torch.float64), rtol=1e-6, atol=0
    )


def test_dit_gpp_has_the_published_scales_and_window() -> None:
    """The scale is 1.25 for timesteps above 200 and 3 below, on three of four channels; the discriminator
    acts above 100."""

    def network(y: Tensor, time: Tensor, class_labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        assert class_labels is not None
        return (class_labels == 0).float().reshape(-1, 1, 1, 1).expand_as(y), None

    predictor = ClassifierFreePredictor(network, 1000, DIT_GPP.classifier_free)
    time = torch.tensor([999.0, 201.0, 200.0, 0.0])
    epsilon, _ = predictor(torch.zeros(4, 4, 1, 1), time, torch.zeros(4, dtype=torch.int64))
    assert epsilon[:, :, 0, 0].tolist() == [[1.25] * 3 + [1.0]] * 2 + [[3.0] * 3 + [1.0]] * 2

    term = DiscriminatorTerm(two_signs, DIT_GPP.discriminator)
    kept = DiscreteSchedule.of("linear", 1000, str(DIT_GPP.num_steps)).timestep_map
    advised = [
        term(Point(torch.zeros(2, 2).double(), torch.ones(2) * s, None, 0, 1, (s, s)))[0]
        for s in SCHEDULE.original_sigmas
    ]
    assert [step for step in range(1000) if advised[step] is not None] == list(range(101, 1000))
    assert sum(advised[step] is not None for step in kept) == 224


@pytest.mark.parametrize(
    ("name", "weight", "looks_fake", "nfe", "fid"),
    [
        ("cifar10-uncond", 2.0, 2.0, 35, 1.77),
        ("cifar10-cond", 1.0, 2.0, 35, 1.64),
        ("cifar10-cond-plain", 1.0, 1.0, 35, 1.66),
        ("ffhq-64", 1.0, 2.0, 71, 1.98),
        ("ffhq-64-plain", 1.0, 1.0, 71, 2.04),
    ],
)
def test_edm_gpp_has_the_published_weights(
    name: str, weight: float, looks_fake: float, nfe: int, fid: float
) -> None:
    row = EDM_GPP[name]
    time = cosine_from_sigma if row.cosine_time else tau_from_sigma
    term = DiscriminatorTerm(two_signs, row.discriminator, time)
    for step, fake in ((0, looks_fake), (1, weight)):
        gradient, _ = term(
            Point(torch.zeros(2, 2).double(), torch.ones(2).double(), None, step, 1, (1.0, 1.0))
        )
        assert gradient is not None
        torch.testing.assert_close(
            gradient[:, 0] * 2**0.5, torch.tensor([weight, fake]).double(), rtol=1e-6, atol=0
        )
    assert term(Point(torch.zeros(2, 2).double(), torch.ones(2).double(), None, 0, 2, (1.0, 1.0))) == (
        None,
        None,
    )
    assert term(
        Point(torch.zeros(2, 2).double(), torch.ones(2).double() * 0.0446, None, 0, 1, (0.0446, 0.0446))
    ) == (None, None)
    assert (2 * row.num_steps - 1, row.published_fid) == (nfe, fid) and fid < row.baseline_fid


def test_settings_that_are_given_take_the_place_of_the_published_ones() -> None:
    disc, classifier = official("dg-cifar10-uncond"), official("adm-imagenet-256x256-classifier")
    (plain,) = edm_gpp("cifar10-cond", disc)
    (given,) = edm_gpp("cifar10-cond", disc, weight=0.0, second_order_weight=None, tau_max=0.5)
    assert given == plain.model_copy(update={"weight": 0.0, "tau_max": 0.5})

    (published, narrow), row = adm_gpp("3.18", classifier, disc, tau_min=0.2), ADM_GPP["3.18"]
    assert dict(published).items() >= dict(row.classifier).items()
    expected = row.discriminator.model_copy(update={"after_timestep": None, "tau_min": 0.2})
    assert dict(narrow) == dict(expected) | {"discriminator": disc, "combine": "logits"}
    assert dict(dit_gpp(disc, after_timestep=7)[1])["after_timestep"] == 7
    with pytest.raises(ValidationError, match="did you mean weight"):
        edm_gpp("ffhq-64", disc, wieght=2.0)  # type: ignore[call-arg]


def test_presets_can_be_read_without_torch() -> None:
    code = "import sys, dgflow.diffusion.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_published_interval_is_12_evaluations_of_a_second_network() -> None:
    """There are 75 evaluations in all, instead of 126 (Kynkäänniemi et al. 2024)."""
    asked: list[float] = []

    def second(x: Tensor, sigma: Tensor, class_labels: Tensor | None) -> Tensor:
        asked.append(float(sigma[0]))
        return x

    (term,) = network_guidance("edm2-img512-xxl-interval", official("edm-cifar10-32x32-uncond-vp"))
    assert isinstance(term, NetworkGuidance)
    sample = heun(second, torch.ones(1, 2), edm_sigmas(32), guidance=[term.build(ScoreModel(second))])
    assert sample.nfe + sample.guidance_nfe == 75
    assert NETWORK_ROWS["edm2-img512-xxl-interval"].published_fid == 1.40


def test_published_divisors_are_constants_above_1() -> None:
    (scaling,) = epsilon_scaling("edm-cifar10-uncond-euler")
    assert scaling == EpsilonScaling(factor=1.0048)
    assert all(1 < row.settings.factor < 1.02 and row.settings.slope == 0 for row in SCALING_ROWS.values())


def test_a_row_of_corrections_that_was_not_published_is_refused() -> None:
    with pytest.raises(ValueError, match="found 'adm-cifar'; did you mean adm-cifar10"):
        epsilon_scaling("adm-cifar")
    with pytest.raises(ValueError, match="expected one of the published rows edm2-img512-s-autog"):
        network_guidance("img512", official("edm-cifar10-32x32-uncond-vp"))
